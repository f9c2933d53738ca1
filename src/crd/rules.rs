//! What the API server itself refuses: CEL rules for the schemas. They hold for every client, without a webhook.
//!
//! Each message names the field, the value and what is allowed. Rules of one field are bound to it, so that the refusal carries its path; rules that
//! compare fields, or a field that may be absent with its old value, are bound to the spec. Strings that rules look at have a maxLength: the API
//! server refuses definitions whose rules could cost too much.

use kube::core::{Message, Rule};

/// A rule whose message is a CEL expression.
fn rule(holds: impl Into<String>, message: impl Into<String>) -> Rule {
    Rule::new(holds).message(Message::Expression(message.into()))
}

/// A rule with a fixed message.
fn plain(holds: impl Into<String>, message: impl Into<String>) -> Rule {
    Rule::new(holds).message(Message::Message(message.into()))
}

/// The field's value, `""` when it is absent. (The server takes the length of `orValue` for unlimited.)
fn or_empty(object: &str, field: &str) -> String {
    format!("(has({object}.{field}) ? {object}.{field} : '')")
}

/// Spec rule: a string field keeps the value it was made with; absent is `""`.
pub(super) fn immutable(field: &str) -> Rule {
    let (new, old) = (or_empty("self", field), or_empty("oldSelf", field));
    rule(
        format!("{new} == {old}"),
        format!(r#"'spec.{field} cannot be changed: it is "' + {old} + '" and would become "' + {new} + '"'"#),
    )
    .field_path(format!(".{field}"))
}

/// Field rule: a non-empty string.
pub(super) fn required(field: &str) -> Rule {
    plain("self != ''", format!("spec.{field} is required"))
}

/// Object rule: the name fits the store's rule for names and, where it is the value of a label, that rule's length.
pub(super) fn object_name(min: usize, max: usize) -> Rule {
    rule(
        format!("size(self.metadata.name) >= {min} && size(self.metadata.name) <= {max}"),
        format!(
            r#"'metadata.name "' + self.metadata.name + '" is too short or too long: {min} to {max} characters are allowed'"#
        ),
    )
}

/// Spec rule: the block size of backups may be set once.
pub(super) fn block_size_set_once() -> Rule {
    let (new, old) = (or_empty("self", "backupBlockSize"), or_empty("oldSelf", "backupBlockSize"));
    rule(
        format!("{old} in ['', '-1'] || {new} == {old}"),
        r#"'changing backup block size is not supported: spec.backupBlockSize is "' + oldSelf.backupBlockSize + '" and stays so'"#,
    )
    .field_path(".backupBlockSize")
}

/// Field rule: a duration as Go spells it.
pub(super) fn go_duration(field: &str) -> Rule {
    rule(
        r"self.matches(r'^$|^0$|^(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$')",
        format!(
            r#"'spec.{field} "' + self + '" is no duration: write numbers with a unit (h, m, s), such as "5m0s" or "300s"; "0" is never'"#
        ),
    )
}

/// Rules of the kinds, by kind.
pub(super) mod backup {
    use super::{Rule, or_empty, rule};

    /// Spec rule.
    pub fn mode_stays() -> Rule {
        rule(
            format!("({} == 'full') == ({} == 'full')", or_empty("self", "backupMode"), or_empty("oldSelf", "backupMode")),
            format!(
                r#"'spec.backupMode cannot be changed to "' + {} + '": make another Backup'"#,
                or_empty("self", "backupMode")
            ),
        )
        .field_path(".backupMode")
    }
}

/// Rules of BackupTarget.
pub(super) mod backup_target {
    use super::{Rule, plain, rule};

    /// The end of each refusal of a URL's form.
    pub const ALLOWED: &str = "allowed is s3://bucket@region/path/";

    /// Every rule of the URL.
    pub fn url_rules() -> [Rule; 9] {
        [no_blank(), no_folder(), no_nfs(), known_protocol(), bucket(), region(), final_slash(), characters(), parts()]
    }

    /// Field rule of the URL. It hides the other ones' messages, which must not contain line ends.
    pub fn no_blank() -> Rule {
        plain(r"!self.matches(r'\s')", "target URL contains a blank or a line end: remove it")
    }

    /// A rule of URLs without blanks.
    fn url_rule(holds: &str, message: impl Into<String>) -> Rule {
        rule(format!(r"self.matches(r'\s') || ({holds})"), message)
    }

    /// Field rule of the URL: the store is one place, for the manager and for every node.
    pub fn no_folder() -> Rule {
        url_rule(
            "!self.startsWith('file://')",
            format!(r#"'target URL "' + self + '" names a folder, and every node has its own: {ALLOWED}'"#),
        )
    }

    /// Field rule of the URL.
    pub fn no_nfs() -> Rule {
        url_rule("!self.startsWith('nfs://')", format!(r#"'target URL "' + self + '": nfs is not served yet: {ALLOWED}'"#))
    }

    /// Field rule of the URL: a protocol that is known.
    pub fn known_protocol() -> Rule {
        url_rule(
            "self == '' || self.matches(r'^(s3|nfs|file)://')",
            format!(
                r#"self.contains('://') ? 'target URL "' + self + '" has the unsupported protocol "' + self.split('://')[0] + '": {ALLOWED}' : 'target URL "' + self + '" has no protocol: {ALLOWED}'"#
            ),
        )
    }

    /// Field rule of the URL: s3 needs a bucket.
    pub fn bucket() -> Rule {
        url_rule(
            r"!self.startsWith('s3://') || self.matches(r'^s3://[^@/?]')",
            format!(r#"'target URL "' + self + '" names no bucket: {ALLOWED}'"#),
        )
    }

    /// Field rule of the URL: s3 needs a region, since it is part of every request's signature.
    pub fn region() -> Rule {
        let bucket = r"self.find(r'^s3://[^@/?]+')";
        let rest = r"self.replace(self.find(r'^s3://[^@/?]+@?'), '')";
        url_rule(
            r"!self.matches(r'^s3://[^@/?]+(@?/|@?$)')",
            format!(
                r#"'target URL "' + self + '" names no region: write it behind the bucket with @, as in ' + {bucket} + '@us-east-1' + ({rest} == '' ? '/' : {rest} + ({rest}.endsWith('/') ? '' : '/'))"#
            ),
        )
    }

    /// Field rule of the URL: it ends with `/`.
    pub fn final_slash() -> Rule {
        url_rule(
            r"!self.matches(r'^s3://[^@/?]+@[^/]') || self.endsWith('/')",
            r#"'target URL "' + self + '" does not end with "/": write ' + self + '/'"#,
        )
    }

    /// Field rule of the URL: characters that mean the same in every implementation of the format.
    pub fn characters() -> Rule {
        url_rule(
            r#"!self.startsWith('s3://') || self.matches(r"^[a-z0-9]+://[A-Za-z0-9/_.~!*'()=+:@-]*$")"#,
            r#"'target URL "' + self + '" contains a character that is not allowed: allowed are letters, digits, "/" and any of -_.~!*()=+:@'"#,
        )
    }

    /// Field rule of the URL: no empty, `.` or `..` part.
    pub fn parts() -> Rule {
        url_rule(
            r"!self.startsWith('s3://') || !self.matches(r'^[a-z0-9]+://.*(/\.{1,2}/|[^/:]//)')",
            r#"'target URL "' + self + '" has an empty, "." or ".." part in its path'"#,
        )
    }

    /// Field rule of the Secret's name. The server shows the value.
    pub fn secret_name() -> Rule {
        plain(
            "self == '' || self.matches(r'^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
            "spec.credentialSecret is no name of a Secret: write the name of one in this namespace, without blanks or line ends",
        )
    }
}

/// Rules of RecurringJob.
pub(super) mod recurring_job {
    use super::{Rule, plain, rule};

    const LABEL_KEY: &str = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
    const LABEL_VALUE: &str = "^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";

    /// Object rule: the limit of the user's document for names of jobs.
    pub fn object_name() -> Rule {
        rule(
            "size(self.metadata.name) <= 40",
            r#"'job name "' + self.metadata.name + '" is too long: metadata.name must be 40 characters or less'"#,
        )
    }

    /// Field rule of `name`.
    pub fn name() -> Rule {
        rule("size(self) <= 40", r#"'job name "' + self + '" is too long: spec.name must be 40 characters or less'"#)
    }

    /// Field rule of `cron`: the time zone has a field of its own.
    pub fn no_zone_in_cron() -> Rule {
        rule(
            r"!self.matches(r'^\s*(CRON_)?TZ=')",
            r#"'cron "' + self.trim() + '": the time zone does not belong here: write spec.timeZone: "' + self.find(r'=\S*').replace('=', '') + '"'"#,
        )
    }

    /// Field rule of `cron`: a run's time does not depend on when the manager started.
    pub fn no_interval() -> Rule {
        rule(
            r"!self.matches(r'^\s*@every')",
            r#"'cron "' + self.trim() + '": intervals are not taken: write five fields, such as "*/15 * * * *", or @hourly, @daily, @weekly, @monthly, @yearly'"#,
        )
    }

    /// What another rule refuses, or what is no list of five fields.
    const OTHER: &str = r"self.matches(r'^\s*(@|(CRON_)?TZ=)') || !self.matches(r'^\s*(\S+\s+){4}\S+\s*$')";

    /// Field rule of `cron`: five fields or a known word.
    pub fn five_fields() -> Rule {
        rule(
            r"self.matches(r'^\s*(@every|(CRON_)?TZ=)') || self.matches(r'^\s*(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|(\S+\s+){4}\S+)\s*$')",
            r#"'invalid cron format("' + self.trim() + '"): five fields are wanted (minute, hour, day of month, month, day of week; none for seconds) or one of @hourly, @daily, @weekly, @monthly, @yearly'"#,
        )
    }

    /// Field rule of `cron` for its `index`-th field: a list of values, ranges and steps. That ranges run forwards is the controller's to see.
    fn cron_field(index: usize, name: &str, value: &str, allowed: &str) -> Rule {
        let part = format!(r"([*?]|{value}(-{value})?)(/\+?0*[1-9][0-9]*)?");
        rule(
            format!(r"{OTHER} || self.matches(r'^\s*(\S+\s+){{{index}}},*{part}(,+{part})*,*(\s|$)')"),
            format!(
                r#"'invalid cron format("' + self.trim() + '"): {name}: allowed are {allowed}, *, lists (1,2), ranges (1-5) and steps (*/5)'"#
            ),
        )
    }

    /// Field rule of `cron`.
    pub fn minute() -> Rule {
        cron_field(0, "minute", r"\+?0*[1-5]?[0-9]", "0 to 59")
    }

    /// Field rule of `cron`.
    pub fn hour() -> Rule {
        cron_field(1, "hour", r"\+?0*(1?[0-9]|2[0-3])", "0 to 23")
    }

    /// Field rule of `cron`.
    pub fn day_of_month() -> Rule {
        cron_field(2, "day of month", r"\+?0*([1-9]|[12][0-9]|3[01])", "1 to 31 (no L, W or #)")
    }

    /// Field rule of `cron`.
    pub fn month() -> Rule {
        let names = "(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)";
        cron_field(3, "month", &format!(r"(\+?0*([1-9]|1[0-2])|{names})"), "1 to 12 or JAN to DEC")
    }

    /// Field rule of `cron`.
    pub fn day_of_week() -> Rule {
        let names = "(?i:sun|mon|tue|wed|thu|fri|sat)";
        cron_field(4, "day of week", &format!(r"(\+?0*[0-6]|{names})"), "0 (Sunday) to 6 or SUN to SAT (no 7, L or #)")
    }

    /// Field rule of `timeZone`. Whether there is such a zone is the controller's to see.
    pub fn time_zone() -> Rule {
        rule(
            r"self == '' || self != 'Local' && self.matches(r'^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$')",
            r#"'spec.timeZone "' + self + '" is no IANA name: write one such as "Europe/Berlin" or "UTC"'"#,
        )
    }

    /// Spec rule: a job that keeps nothing is refused. Tasks that make nothing keep nothing.
    pub fn retain() -> Rule {
        plain(
            "self.retain >= 1 || self.task in ['snapshot-cleanup', 'filesystem-trim']",
            "spec.retain must be greater than 0: allowed are 1 to 250, the number of results that are kept for each volume",
        )
        .field_path(".retain")
    }

    /// Field rule of `retentionPolicy`: counting is what is done; to count where an age was asked for would remove too much.
    pub fn count_based() -> Rule {
        rule(
            "self in ['', 'count-based']",
            r#"'spec.retentionPolicy "' + self + '" is not supported: write count-based and say in spec.retain how many are kept'"#,
        )
    }

    /// Field rule of `groups`.
    pub fn groups() -> Rule {
        rule(
            format!("self.all(group, group.matches(r'{LABEL_VALUE}'))"),
            format!(
                r#"'invalid group name "' + self.filter(group, !group.matches(r'{LABEL_VALUE}'))[0] + '": allowed are letters, digits, "-", "_" and ".", at most 63'"#
            ),
        )
    }

    /// Field rule of `labels`.
    pub fn labels() -> Rule {
        let holds = format!("self[key] == '' || self[key].matches(r'{LABEL_VALUE}')");
        rule(
            format!("self.all(key, {holds})"),
            format!(
                r#"'invalid label value "' + self[self.filter(key, !({holds}))[0]] + '" for key "' + self.filter(key, !({holds}))[0] + '": allowed are letters, digits, "-", "_" and ".", at most 63'"#
            ),
        )
    }

    /// Field rule of `labels`: the keys are those of Kubernetes.
    pub fn label_keys() -> Rule {
        let holds = format!("key.matches(r'{LABEL_KEY}')");
        rule(
            format!("self.all(key, {holds})"),
            format!(
                r#"'invalid label key "' + self.filter(key, !({holds}))[0] + '": allowed are letters, digits, "-", "_" and ".", at most 63, behind an optional DNS name and "/"'"#
            ),
        )
    }

    /// Field rule of `parameters`.
    pub fn parameter_keys() -> Rule {
        let known = "key in ['full-backup-interval', 'volume-backup-policy']";
        rule(
            format!("self.all(key, {known})"),
            format!(
                r#"'"' + self.filter(key, !({known}))[0] + '" is not a valid parameter: allowed are full-backup-interval and volume-backup-policy'"#
            ),
        )
    }

    /// Field rule of `parameters`.
    pub fn full_backup_interval() -> Rule {
        rule(
            r"!('full-backup-interval' in self) || self['full-backup-interval'].matches(r'^[0-9]{1,9}$')",
            r#"'full-backup-interval "' + self['full-backup-interval'] + '" is not a number: every how many backups one is full; 0 is never'"#,
        )
    }

    /// Field rule of `parameters`.
    pub fn volume_backup_policy() -> Rule {
        rule(
            "!('volume-backup-policy' in self) || self['volume-backup-policy'] in ['always', 'if-not-present', 'disabled']",
            r#"'volume-backup-policy "' + self['volume-backup-policy'] + '": allowed are always, if-not-present and disabled'"#,
        )
    }
}

/// Rules of Volume.
pub(super) mod volume {
    use super::{Rule, or_empty, plain, rule};

    const DIGITS: &str = "r'^[0-9]{1,18}$'";

    /// Field rule of a size: digits.
    pub fn bytes(field: &str) -> Rule {
        rule(
            format!("self == '' || self.matches({DIGITS})"),
            format!(r#"'spec.{field} "' + self + '" is no number of bytes: write digits only, such as "2147483648" for 2Gi'"#),
        )
    }

    /// Spec rule.
    pub fn size_given() -> Rule {
        plain(
            format!("!({} in ['', '0']) || {} != ''", or_empty("self", "size"), or_empty("self", "fromBackup")),
            "spec.size is required, in bytes, such as \"2147483648\"; only with spec.fromBackup it may be left out, and is the backup's then",
        )
    }

    /// Spec rule.
    pub fn never_shrinks() -> Rule {
        let (new, old) = (or_empty("self", "size"), or_empty("oldSelf", "size"));
        rule(
            format!("!{old}.matches({DIGITS}) || {new}.matches({DIGITS}) && int({new}) >= int({old})"),
            format!("'shrinking volume size from ' + {old} + ' to ' + {new} + ' is not supported: spec.size can only grow'"),
        )
        .field_path(".size")
    }

    /// Field rule of `snapshotMaxCount`.
    pub fn snapshot_max_count() -> Rule {
        plain("self != 1", "spec.snapshotMaxCount is 1: snapshot max count should be between 2 to 250, or 0 for the setting")
    }

    /// Field rule of `snapshotMaxSize`: a limit that nothing keeps would be believed.
    pub fn no_snapshot_max_size() -> Rule {
        rule(
            "self in ['', '0']",
            r#"'spec.snapshotMaxSize is ' + self + ': limiting snapshots by their size is not supported: write 0 and limit their number by spec.snapshotMaxCount'"#,
        )
    }

    /// Field rule of `restoreVolumeRecurringJob`: jobs are not stored with a backup.
    pub fn no_restored_jobs() -> Rule {
        plain(
            "self != 'enabled'",
            "spec.restoreVolumeRecurringJob enabled is not supported: allowed are ignored and disabled; give the volume its jobs by its labels",
        )
    }

    /// Field rule of `fromBackup`.
    pub fn backup_url() -> Rule {
        rule(
            r"self == '' || self.matches(r'^[a-z0-9]+://[^?\s]*\?(\S*&)?backup=[^&\s]+(&|$)') && self.matches(r'^[^?]*\?(\S*&)?volume=[^&\s]+(&|$)')",
            r#"'cannot get backup and volume name from backup URL "' + self + '": spec.fromBackup must be the status.url of a Backup, such as s3://bucket@region/?backup=NAME&volume=NAME'"#,
        )
    }

    /// Field rule of `frontend`: nothing is given instead of what was asked for.
    pub fn frontend() -> Rule {
        rule(
            "self in ['', 'blockdev']",
            r#"'spec.frontend "' + self + '" is not served: volumes are block devices, write blockdev'"#,
        )
    }

    /// Field rule of `encrypted`: plain bytes in the place of encrypted ones would be a breach.
    pub fn not_encrypted() -> Rule {
        plain("!self", "spec.encrypted true is not supported: the volume's bytes would lie in the pool as they are")
    }

    /// Field rule of a source of content that cannot be had: an empty volume in its place would pass for the content.
    pub fn no_source(field: &str) -> Rule {
        rule(
            "self == ''",
            format!(r#"'spec.{field} "' + self + '" is not supported: a volume begins empty or with spec.fromBackup'"#),
        )
    }

    /// Field rule of `Standby`.
    pub fn not_standby() -> Rule {
        plain("!self", "spec.Standby true is not supported: a volume with spec.fromBackup is restored once")
    }
}

/// Rules of Setting: what [`definitions`](super::definitions) says, in the API server's terms.
pub(super) mod setting {
    use super::{Rule, backup_target, rule};
    use crate::crd::definitions::{ALL, Definition, Kind, WITHOUT_EFFECT};

    /// Object rules.
    pub fn values() -> Vec<Rule> {
        std::iter::once(known_name()).chain(ALL.iter().flat_map(of)).collect()
    }

    fn known_name() -> Rule {
        let own = ALL.iter().map(|definition| definition.name);
        let names: Vec<String> = own.chain(WITHOUT_EFFECT).map(|name| format!("'{name}'")).collect();
        let names = names.join(", ");
        let allowed = ALL.map(|definition| definition.name).join(", ");
        rule(
            format!("self.metadata.name in [{names}]"),
            format!("'setting ' + self.metadata.name + ' does not exist: allowed are {allowed}'"),
        )
    }

    fn of(definition: &Definition) -> Vec<Rule> {
        let name = definition.name;
        let sound = match definition.kind {
            Kind::TargetUrl => return backup_target::url_rules().into_iter().map(|rule| on_value(name, rule)).collect(),
            Kind::Bool => "self.value in ['true', 'false']".to_owned(),
            Kind::BoolPerEngine => format!("self.value in ['true', 'false'] || self.value.matches(r'{BY_ENGINE}')"),
            Kind::Integer { min, max } => {
                format!("self.value.matches('^[0-9]{{1,9}}$') && int(self.value) >= {min} && int(self.value) <= {max}")
            }
            Kind::Choice(words) => format!("self.value in ['{}']", words.join("', '")),
            Kind::SecretName => format!("self.value == '' || size(self.value) <= 253 && self.value.matches(r'{OBJECT_NAME}')"),
        };
        let rule = rule(
            format!("self.metadata.name != '{name}' || ({sound})"),
            format!(r#"'setting {name} has the value "' + self.value + '": allowed is {}'"#, definition.allowed()),
        );
        vec![rule.field_path(".value")]
    }

    /// A JSON object of strings, with a switch for engine v1.
    const BY_ENGINE: &str =
        r#"^\s*\{\s*("[^"\\]*"\s*:\s*"[^"\\]*"\s*,\s*)*"v1"\s*:\s*"(true|false)"\s*(,\s*"[^"\\]*"\s*:\s*"[^"\\]*"\s*)*\}\s*$"#;
    const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

    /// A field's rule, for the value of the setting of that name.
    fn on_value(name: &str, mut rule: Rule) -> Rule {
        use kube::core::Message;
        // No text of these rules has this word for anything but the field.
        rule.rule = format!("self.metadata.name != '{name}' || ({})", rule.rule.replace("self", "self.value"));
        rule.message = rule.message.map(|message| match message {
            Message::Expression(text) => Message::Expression(text.replace("self", "self.value")),
            fixed @ Message::Message(_) => fixed,
        });
        rule.field_path(".value")
    }
}
