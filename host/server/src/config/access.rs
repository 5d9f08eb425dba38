//! The section `[access]` and the checks of its grants.

use serde::Deserialize;

use super::{ConfigError, check_identity, wrong};

/// Most grants of a job: one for each person and kind of tensor stays far below.
pub const MAX_GRANTS: usize = 1024;

/// Most key patterns of a grant.
pub const MAX_GRANT_PATTERNS: usize = 64;

/// Longest key pattern of a grant, in bytes: as long as a key.
pub const MAX_GRANT_PATTERN_BYTES: usize = stepbox_wire::MAX_KEY_BYTES;

/// The section `[access]`, or `[jobs.NAME.access]`. Who is not named has no right.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessConfig {
    /// What workers may do with all keys: `push`, `pull` or both, which is the default. With less, grants give the rest.
    pub worker_rights: Vec<Right>,
    /// May bring components, which go no further without a deployer.
    pub publishers: Vec<String>,
    /// May deploy what was submitted, roll back and set the learning rate, and see the status to know what is deployed.
    /// Who is named among the publishers too may deploy a component in one step.
    pub deployers: Vec<String>,
    /// May set the learning rate, and see the status to know what it is. Workers can be named here too.
    pub schedulers: Vec<String>,
    /// May see the status.
    pub operators: Vec<String>,
    /// May see the status.
    pub auditors: Vec<String>,
    /// More rights, one by one, for some keys or all.
    pub grant: Vec<Grant>,
    /// May do nothing, whatever else the configuration says, and whatever certificate they have.
    pub denied: Vec<String>,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            worker_rights: vec![Right::Push, Right::Pull],
            publishers: Vec::new(),
            deployers: Vec::new(),
            schedulers: Vec::new(),
            operators: Vec::new(),
            auditors: Vec::new(),
            grant: Vec::new(),
            denied: Vec::new(),
        }
    }
}

/// Something that an identity may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Right {
    /// Push gradients, and make keys known. For workers only.
    Push,
    /// Read weights.
    Pull,
    /// Bring an optimizer's code.
    Submit,
    /// Have an optimizer take over.
    Activate,
    /// Set the learning rate.
    Schedule,
    /// See the status.
    Status,
}

/// `[[access.grant]]`: rights for identities, where the lists give too many.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// For whom; each in full, since a pattern would take in names that an authority gives later.
    pub identities: Vec<String>,
    /// To do what.
    pub rights: Vec<Right>,
    /// With which keys, for `push` and `pull`: patterns in which `*` stands for any characters and `?` for one. All keys
    /// where absent.
    #[serde(default)]
    pub keys: Option<Vec<String>>,
}

impl AccessConfig {
    /// `section` is where it stands, such as `access`; `workers` are those of its job.
    pub(crate) fn check(&self, section: &str, workers: &[String]) -> Result<(), ConfigError> {
        for (role, identities) in [
            ("publishers", &self.publishers),
            ("deployers", &self.deployers),
            ("schedulers", &self.schedulers),
            ("operators", &self.operators),
            ("auditors", &self.auditors),
            ("denied", &self.denied),
        ] {
            identities.iter().try_for_each(|identity| check_identity(&format!("{section}.{role}"), identity))?;
        }
        if let Some(right) = self.worker_rights.iter().find(|right| !matches!(right, Right::Push | Right::Pull)) {
            let reason = format!("{right:?} is not for workers as such; name who may in a list or a grant");
            return Err(wrong(&format!("{section}.worker_rights"), reason));
        }
        if self.grant.len() > MAX_GRANTS {
            return Err(wrong(&format!("{section}.grant"), format!("{} grants, above {MAX_GRANTS}", self.grant.len())));
        }
        self.grant.iter().try_for_each(|grant| grant.check(&format!("{section}.grant"), workers))
    }
}

impl Grant {
    fn check(&self, section: &str, workers: &[String]) -> Result<(), ConfigError> {
        let field = |name: &str| format!("{section}.{name}");
        for identity in &self.identities {
            check_identity(&field("identities"), identity)?;
            if self.rights.contains(&Right::Push) && !workers.contains(identity) {
                let reason = format!("`{identity}` is no worker of the job, and only workers push");
                return Err(wrong(&field("rights"), reason));
            }
        }
        if self.identities.is_empty() || self.rights.is_empty() {
            return Err(wrong(section, "a grant needs `identities` and `rights`, or it gives nothing".into()));
        }
        let Some(keys) = &self.keys else { return Ok(()) };
        if let Some(right) = self.rights.iter().find(|right| !matches!(right, Right::Push | Right::Pull)) {
            let reason = format!("{right:?} is not bound to keys; give it in a grant without `keys`");
            return Err(wrong(&field("keys"), reason));
        }
        if keys.is_empty() || keys.len() > MAX_GRANT_PATTERNS {
            return Err(wrong(&field("keys"), format!("{} patterns; give 1 to {MAX_GRANT_PATTERNS}", keys.len())));
        }
        match keys.iter().find(|key| key.is_empty() || key.len() > MAX_GRANT_PATTERN_BYTES) {
            None => Ok(()),
            Some(key) => {
                let reason = format!("a pattern of {} bytes; give 1 to {MAX_GRANT_PATTERN_BYTES}", key.len());
                Err(wrong(&field("keys"), reason))
            }
        }
    }
}
