# Backups as lines "name <tab> state <tab> what is going on <tab> error", oldest first.
def mib: (((. // 0) | tonumber) / 1048576 | floor | tostring) + " MiB";
.items
| sort_by(.metadata.creationTimestamp)[]
| (.status // {}) as $status
| [ .metadata.name,
    ($status.state // "New"),
    ( if $status.state == "Completed" then
        "\($status.size | mib) in the backup, \($status.newlyUploadDataSize | mib) of it uploaded now"
      elif $status.state == "InProgress" then
        "\($status.progress // 0) %  \($status.phase // "")  \($status.bytesRead | mib) of \($status.bytesTotal | mib) read, \($status.bytesUploaded | mib) sent"
      else ([$status.messages // {} | .[]] | join("; ")) end ),
    ($status.error // "") ]
| @tsv
