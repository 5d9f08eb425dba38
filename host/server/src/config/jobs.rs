//! What each job of a server is set up with: its own section, and its part of what the server has.
//!
//! Jobs share a server's memory by division, not by competition: what a job may have is decided before it starts, and no
//! job ever waits for, or is refused because of, what another one has. A job that sets no limit of its own has an equal
//! part of what the others' limits leave.

use std::path::PathBuf;

use stepbox_sandbox::SandboxConfig;
use stepbox_wire::{DEFAULT_JOB, check_job};

use super::cache::CacheConfig;
use super::limits::Limits;
use super::{AccessConfig, Config, ConfigError, JobConfig, JobLimits, MAX_SHARD_THREADS, TrustConfig, wrong};

/// Most jobs of a server: each has threads, an engine and folders of its own, and a status page that somebody reads.
pub const MAX_JOBS: usize = 64;

/// Folder in the state directory with a folder for each job but the default one, whose state is in the state directory.
const FOLDER: &str = "jobs";

/// Everything that one job is set up with. Fields are called what they are called in [`Config`].
#[derive(Debug, Clone)]
pub(crate) struct JobSettings {
    pub name: String,
    /// Where the job stands in the configuration, such as `job` or `jobs.vision`.
    pub section: String,
    pub job: JobConfig,
    pub access: AccessConfig,
    pub trust: TrustConfig,
    pub sandbox: SandboxConfig,
    pub cache: CacheConfig,
    /// The server's, with the job's part in place of what is divided.
    pub limits: Limits,
    pub state_directory: PathBuf,
    pub shard_threads: usize,
}

impl JobSettings {
    /// Where the operator writes who may do what in this job.
    pub fn access_section(&self) -> String {
        match self.job.access {
            Some(_) => format!("{}.access", self.section),
            None if self.name == DEFAULT_JOB => "access".to_owned(),
            None => format!("{}.access", self.section),
        }
    }
}

/// Holds all jobs of a configuration against what there can be.
pub(crate) fn check_jobs(config: &Config) -> Result<(), ConfigError> {
    let count = config.jobs.len() + usize::from(config.job.is_some());
    if count == 0 {
        return Err(wrong("job", "there is no job: add a section [job], or [jobs.NAME] for each of several".into()));
    }
    if count > MAX_JOBS {
        return Err(wrong("jobs", format!("{count} jobs; at most {MAX_JOBS} are allowed, run another server")));
    }
    if config.job.is_some() && config.jobs.contains_key(DEFAULT_JOB) {
        let reason = format!("[job] is the job `{DEFAULT_JOB}` already; give the other one another name");
        return Err(wrong(&format!("jobs.{DEFAULT_JOB}"), reason));
    }
    if let Some(access) = &config.access {
        let Some(job) = config.job.as_ref().filter(|job| job.access.is_none()) else {
            let reason = "belongs to [job] alone, and is written once; other jobs have [jobs.NAME.access]".into();
            return Err(wrong("access", reason));
        };
        access.check("access", &job.workers)?;
    }
    for (section, name, job) in sections(config) {
        check_job(name).map_err(|error| wrong(&section, error.to_string()))?;
        job.check(&section)?;
        if job.shard_threads.is_some_and(|threads| threads == 0 || threads > MAX_SHARD_THREADS) {
            return Err(wrong(&format!("{section}.shard_threads"), format!("must be 1 to {MAX_SHARD_THREADS}")));
        }
    }
    settings(config).map(drop)
}

/// What each job is set up with, in order of name.
pub(crate) fn settings(config: &Config) -> Result<Vec<JobSettings>, ConfigError> {
    let of = |limit: fn(&JobLimits) -> Option<u64>| sections(config).map(|(_, _, job)| limit(&job.limits)).collect();
    let parts = |name, total, own: Vec<_>| divide(config, name, total, &own);
    let connections =
        parts("connections", config.limits.connections as u64, of(|limits| limits.connections.map(|own| own as u64)))?;
    let keys = parts("keys", config.limits.keys as u64, of(|limits| limits.keys.map(|own| own as u64)))?;
    let model_bytes = parts("model_bytes", config.limits.model_bytes, of(|limits| limits.model_bytes))?;
    let receiving_bytes = parts("receiving_bytes", config.limits.receiving_bytes, of(|limits| limits.receiving_bytes))?;
    let sending_bytes = parts("sending_bytes", config.limits.sending_bytes, of(|limits| limits.sending_bytes))?;
    let memory = config.sandbox.limits.total_memory_bytes;
    let memory = parts("sandbox_memory_bytes", memory, of(|limits| limits.sandbox_memory_bytes))?;

    let number = |part: u64| usize::try_from(part).unwrap_or(usize::MAX);
    let settings = sections(config).enumerate().map(|(index, (section, name, job))| {
        let mut sandbox = config.sandbox.clone();
        sandbox.limits.total_memory_bytes = memory[index];
        let limits = Limits {
            connections: number(connections[index]),
            keys: number(keys[index]),
            model_bytes: model_bytes[index],
            receiving_bytes: receiving_bytes[index],
            sending_bytes: sending_bytes[index],
            ..config.limits.clone()
        };
        let (mut state_directory, mut cache) = (config.state_directory.clone(), config.cache.clone());
        if name != DEFAULT_JOB {
            // A job that compiles much cannot push out what another has compiled.
            cache.directory = cache.directory.map(|directory| directory.join(FOLDER).join(name));
            state_directory = state_directory.join(FOLDER).join(name);
        }
        JobSettings {
            name: name.to_owned(),
            section,
            access: job.access.as_ref().or(config.access.as_ref()).cloned().unwrap_or_default(),
            trust: job.trust.as_ref().unwrap_or(&config.trust).clone(),
            shard_threads: job.shard_threads.unwrap_or_else(|| config.shard_threads()),
            job: job.clone(),
            sandbox,
            cache,
            limits,
            state_directory,
        }
    });
    Ok(settings.collect())
}

/// All jobs, each with where it stands in the configuration, and its name.
fn sections(config: &Config) -> impl Iterator<Item = (String, &str, &JobConfig)> {
    let only = config.job.iter().map(|job| ("job".to_owned(), DEFAULT_JOB, job));
    only.chain(config.jobs.iter().map(|(name, job)| (format!("jobs.{name}"), name.as_str(), job)))
}

/// Gives each job its own part, or an equal one of what is left.
fn divide(config: &Config, name: &str, total: u64, own: &[Option<u64>]) -> Result<Vec<u64>, ConfigError> {
    let field = |index: usize| {
        let section = sections(config).nth(index).map(|(section, ..)| section).unwrap_or_default();
        format!("{section}.limits.{name}")
    };
    let mut left = total;
    for (index, own) in own.iter().enumerate() {
        let Some(own) = *own else { continue };
        if own == 0 {
            return Err(wrong(&field(index), "must be above 0, or the job could do nothing".into()));
        }
        left = left.checked_sub(own).ok_or_else(|| {
            wrong(&field(index), format!("{own} is more than what other jobs leave of the server's {total}: {left}"))
        })?;
    }
    let sharing = own.iter().filter(|own| own.is_none()).count() as u64;
    match left.checked_div(sharing) {
        Some(0) => {
            let first = own.iter().position(Option::is_none).unwrap_or_default();
            let reason = format!("nothing is left of the server's {total} for {sharing} jobs that do not set it");
            Err(wrong(&field(first), reason))
        }
        part => Ok(own.iter().map(|own| own.unwrap_or(part.unwrap_or_default())).collect()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SERVER: &str = "
        listen = '127.0.0.1:0'
        state_directory = 'state'
        tls = { ca = 'ca.pem', certificate = 'server.pem', key = 'server.key' }
        trust = { store = 'publishers.toml' }
    ";

    fn all(jobs: &str) -> Vec<JobSettings> {
        let config = Config::parse(&format!("{SERVER}\n{jobs}"), Path::new("/srv")).expect("a configuration");
        settings(&config).expect("it was checked")
    }

    fn refused(jobs: &str) -> String {
        Config::parse(&format!("{SERVER}\n{jobs}"), Path::new("/srv")).expect_err("cannot be meant").to_string()
    }

    #[test]
    fn the_one_job_is_called_default_and_has_everything() {
        let [job] = &all("job.workers = ['a']\naccess.operators = ['bob']")[..] else { panic!("one job") };
        assert_eq!((job.name.as_str(), job.section.as_str()), (DEFAULT_JOB, "job"));
        assert_eq!(job.limits, Limits::default());
        assert_eq!(job.sandbox, SandboxConfig::default());
        assert_eq!(job.state_directory, Path::new("/srv/state"));
        assert_eq!(job.access.operators, ["bob"]);
    }

    #[test]
    fn jobs_have_what_they_ask_for_and_equal_parts_of_the_rest() {
        let jobs = all("
            limits = { keys = 100, receiving_bytes = 1000 }
            jobs.b = { workers = ['x'], access = { operators = ['bob'] }, trust = { store = 'b.toml' } }
            jobs.c = { workers = ['y'] }
            [cache]
            directory = 'kept'
            [jobs.a]
            workers = ['x']
            shard_threads = 3
            limits = { keys = 40, sandbox_memory_bytes = 1000, receiving_bytes = 100, sending_bytes = 32212254720 }
        ");
        let keys: Vec<_> = jobs.iter().map(|job| (job.name.as_str(), job.limits.keys)).collect();
        assert_eq!(keys, [("a", 40), ("b", 30), ("c", 30)]);
        let memory: u64 = jobs.iter().map(|job| job.sandbox.limits.total_memory_bytes).sum();
        assert!(memory <= SandboxConfig::default().limits.total_memory_bytes);
        let rooms = jobs.iter().map(|job| (job.limits.receiving_bytes, job.limits.sending_bytes));
        assert_eq!(rooms.collect::<Vec<_>>(), [(100, 30 << 30), (450, 17 << 30), (450, 17 << 30)]);
        assert_eq!(jobs[0].sandbox.limits.total_memory_bytes, 1000);
        assert_eq!(jobs[0].shard_threads, 3);
        assert_eq!(jobs[0].state_directory, Path::new("/srv/state/jobs/a"));
        assert_eq!(jobs[0].cache.directory.as_deref(), Some(Path::new("/srv/kept/jobs/a")));
        let may_see: Vec<_> = jobs.iter().map(|job| job.access.operators.len()).collect();
        assert_eq!(may_see, [0, 1, 0], "rights in one job are none in another");
        let stores: Vec<_> = jobs.iter().map(|job| job.trust.store.to_str()).collect();
        assert_eq!(stores, [Some("/srv/publishers.toml"), Some("/srv/b.toml"), Some("/srv/publishers.toml")]);
    }

    #[test]
    fn jobs_that_cannot_be_meant_are_refused_by_name() {
        assert!(refused("").contains("there is no job"));
        let twice = refused("job.workers = ['a']\njobs.default.workers = ['a']");
        assert!(twice.contains("jobs.default"), "{twice}");
        for name in ["Vision", "a.b", "-a", "..", "", "a/b", &"x".repeat(33)] {
            let refused = refused(&format!("jobs.\"{name}\".workers = ['a']"));
            assert!(refused.contains("lower-case"), "{refused}");
        }
        assert!(refused("jobs.a.workers = []").contains("jobs.a.workers"));
        assert!(refused("jobs.a = { workers = ['x'], shard_threads = 0 }").contains("jobs.a.shard_threads"));
        assert!(refused("jobs.a = { workers = ['x'], limits = { keys = 0 } }").contains("jobs.a.limits.keys"));
        let greedy = refused("jobs.a = { workers = ['x'], limits = { keys = 8193 } }");
        assert!(greedy.contains("jobs.a.limits.keys") && greedy.contains("8192"), "{greedy}");
        let all = refused("jobs.a = { workers = ['x'], limits = { keys = 8192 } }\njobs.b.workers = ['y']");
        assert!(all.contains("jobs.b.limits.keys") && all.contains("nothing is left"), "{all}");
        for nowhere in [
            "jobs.a.workers = ['x']\naccess.operators = ['bob']",
            "job = { workers = ['x'], access = {} }\naccess.operators = ['bob']",
        ] {
            assert!(refused(nowhere).contains("[jobs.NAME.access]"));
        }
        let many: String = (0..=MAX_JOBS).map(|job| format!("jobs.j{job}.workers = ['x']\n")).collect();
        assert!(refused(&many).contains("at most 64"));
    }
}
