//! Carries out the mirroring of the three aliases. Every write has the read resourceVersion as its precondition.

use std::time::Duration;

use kube::api::PostParams;

use super::definitions::{self, name};
use super::mirror::{self, Step};
use crate::controllers::events::Reason;
use crate::controllers::{ApiContext, Context, Error};
use crate::crd::names::{ANNOTATION_LAST_MIRRORED, DEFAULT_BACKUP_TARGET};
use crate::crd::{BackupTarget, GoDuration, Setting};

/// The names of the aliases.
pub const NAMES: [&str; 3] = [name::TARGET, name::TARGET_SECRET, name::POLL_INTERVAL];

/// A field of the target `default` that a Setting shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alias {
    /// `spec.backupTargetURL`
    Url,
    /// `spec.credentialSecret`
    Secret,
    /// `spec.pollInterval`, in seconds
    PollInterval,
}

impl Alias {
    /// The alias of that Setting name.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            name::TARGET => Some(Self::Url),
            name::TARGET_SECRET => Some(Self::Secret),
            name::POLL_INTERVAL => Some(Self::PollInterval),
            _ => None,
        }
    }

    fn setting(self) -> &'static str {
        match self {
            Self::Url => name::TARGET,
            Self::Secret => name::TARGET_SECRET,
            Self::PollInterval => name::POLL_INTERVAL,
        }
    }

    fn read(self, target: &BackupTarget) -> String {
        match self {
            Self::Url => target.spec.backup_target_url.clone(),
            Self::Secret => target.spec.credential_secret.clone(),
            Self::PollInterval => target.spec.poll_interval.0.as_secs().to_string(),
        }
    }

    /// `value` passed the definition's check.
    fn write(self, target: &mut BackupTarget, value: &str) {
        match self {
            Self::Url => value.clone_into(&mut target.spec.backup_target_url),
            Self::Secret => value.clone_into(&mut target.spec.credential_secret),
            Self::PollInterval => target.spec.poll_interval = GoDuration(Duration::from_secs(value.parse().unwrap_or_default())),
        }
    }

    /// One spelling for each value.
    fn canonical(self, value: &str) -> String {
        match self {
            Self::PollInterval => value.parse::<u64>().map_or_else(|_| value.to_owned(), |seconds| seconds.to_string()),
            Self::Url | Self::Secret => value.trim().to_owned(),
        }
    }
}

/// Makes both sides say the same. Returns the Setting as it now is, and whether its value is in force.
pub async fn mirror(
    alias: Alias,
    setting: Setting,
    verdict: Result<(), String>,
    context: &Context,
) -> Result<(Setting, Result<(), String>), Error> {
    let targets = context.api::<BackupTarget>();
    let target = targets
        .get_opt(DEFAULT_BACKUP_TARGET)
        .await
        .context(|| "read backup target default".to_owned())?
        .ok_or_else(|| Error::NotYet("waiting for the backup target default".to_owned()))?;
    let default = definitions::find(alias.setting()).map_or("", |definition| definition.default);
    let last = setting.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ANNOTATION_LAST_MIRRORED)).cloned();
    let (ours, theirs) = (alias.canonical(&setting.value), alias.canonical(&alias.read(&target)));
    match mirror::plan(&ours, &theirs, last.as_deref(), default) {
        Step::Nothing => Ok((setting, Ok(()))),
        Step::Remember => Ok((remember(setting, &ours, context).await?, Ok(()))),
        // A value that is refused stays where the user put it, and the target stays as it is.
        Step::WriteTarget(_) if verdict.is_err() => Ok((setting, verdict)),
        Step::WriteTarget(value) => match write_target(alias, target, value, context).await? {
            Ok(()) => Ok((remember(setting, value, context).await?, Ok(()))),
            Err(refusal) => Ok((setting, Err(refusal))),
        },
        Step::WriteSetting(value) => Ok((remember(setting, value, context).await?, Ok(()))),
        Step::Conflict(value) => {
            let words = format!(
                "setting {} and backup target {DEFAULT_BACKUP_TARGET} were both edited: the target's {value:?} wins over {ours:?}",
                alias.setting()
            );
            let setting = remember(setting, value, context).await?;
            context.events.warning(&setting, Reason::SettingConflict, words, None).await;
            Ok((setting, Ok(())))
        }
    }
}

/// `Ok(Err(..))`: the API server refuses the value by a rule of the schema.
async fn write_target(
    alias: Alias,
    mut target: BackupTarget,
    value: &str,
    context: &Context,
) -> Result<Result<(), String>, Error> {
    alias.write(&mut target, value);
    match context.api::<BackupTarget>().replace(DEFAULT_BACKUP_TARGET, &PostParams::default(), &target).await {
        Ok(_) => Ok(Ok(())),
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(Err(status.message.clone())),
        Err(error) => {
            Err(error).context(|| format!("write setting {} to backup target {DEFAULT_BACKUP_TARGET}", alias.setting()))
        }
    }
}

async fn remember(mut setting: Setting, value: &str, context: &Context) -> Result<Setting, Error> {
    let name = setting.metadata.name.clone().unwrap_or_default();
    if Alias::of(&name).is_none_or(|alias| alias.canonical(&setting.value) != value) {
        value.clone_into(&mut setting.value);
    }
    setting.metadata.annotations.get_or_insert_default().insert(ANNOTATION_LAST_MIRRORED.to_owned(), value.to_owned());
    context.api::<Setting>().replace(&name, &PostParams::default(), &setting).await.context(|| format!("write setting {name}"))
}
