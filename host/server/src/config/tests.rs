//! What a configuration may say.

use std::time::Duration;

use stepbox_reduce::Reduction;

use super::*;

const SMALLEST: &str = r#"
    listen = "127.0.0.1:0"
    state_directory = "state"
    [tls]
    ca = "ca.pem"
    certificate = "/etc/stepbox/server.pem"
    key = "server.key"
    [job]
    workers = ["worker-0", "worker-1"]
    [trust]
    store = "publishers.toml"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/srv/job"))
}

fn refused(text: &str) -> String {
    parse(text).expect_err("a configuration that cannot be meant").to_string()
}

#[test]
fn what_is_not_set_has_its_default_and_denies_access() {
    let config = parse(SMALLEST).expect("the smallest configuration");
    assert_eq!(config.limits, Limits::default());
    assert!(config.shard_threads() >= 1 && config.access.is_none());
    let job = config.job.expect("the section");
    assert_eq!(job.aggregation, Aggregation::Mean);
    assert_eq!(job.reduction(), Reduction::mean());
    assert_eq!(job.gradient_types, [GradientType::F32, GradientType::Bf16, GradientType::F16]);
    assert_eq!(job.round_timeout_seconds.duration(), Duration::from_secs(60));
}

#[test]
fn relative_paths_start_at_the_file_and_absolute_ones_stay() {
    let config = parse(SMALLEST).expect("the smallest configuration");
    assert_eq!(config.tls.ca, Path::new("/srv/job/ca.pem"));
    assert_eq!(config.tls.certificate, Path::new("/etc/stepbox/server.pem"));
    assert_eq!(config.trust.store, Path::new("/srv/job/publishers.toml"));
    assert_eq!(config.state_directory, Path::new("/srv/job/state"));
    assert_eq!(config.cache.directory, None);
    let cache = |path: &str| parse(&format!("{SMALLEST}\n[cache]\ndirectory = '{path}'")).map(|config| config.cache);
    assert_eq!(cache("kept").expect("a cache").directory.as_deref(), Some(Path::new("/srv/job/kept")));
    assert_eq!(cache("/var/kept").expect("a cache").directory.as_deref(), Some(Path::new("/var/kept")));
}

#[test]
fn a_field_with_a_typing_error_is_not_ignored() {
    for (section, field) in [
        ("[limits]", "conections = 3"),
        ("[access]", "deployer = ['x']"),
        ("[sandbox]", "feul = 1"),
        ("[cache]", "enable = false"),
        ("[compiler]", "memory = 1"),
        ("[audit]", "dir = 'x'"),
    ] {
        let message = refused(&format!("{SMALLEST}\n{section}\n{field}"));
        let name = field.split(' ').next().expect("a name");
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn values_that_cannot_be_meant_are_refused_by_name() {
    let workers = |list: &str| SMALLEST.replace(r#"["worker-0", "worker-1"]"#, list);
    assert!(refused(&workers("[]")).contains("job.workers"));
    assert!(refused(&workers(r#"["a", "a"]"#)).contains("twice"));
    assert!(refused(&workers(r#"["a\n"]"#)).contains("job.workers"));
    let job = |field: &str| SMALLEST.replace("[job]", &format!("[job]\n{field}"));
    assert!(refused(&job("gradient_types = []")).contains("job.gradient_types"));
    assert!(refused(&job("gradient_types = ['f64']")).contains("f64"));
    for scale in ["0", "-0.5", "nan", "inf", "1e-50"] {
        assert!(refused(&job(&format!("gradient_scale = {scale}"))).contains("job.gradient_scale"), "{scale}");
    }
    assert!(refused(&format!("shard_threads = 0\n{SMALLEST}")).contains("shard_threads"));
    assert!(refused(&format!("{SMALLEST}\n[limits]\nkeys = 0")).contains("limits.keys"));
    assert!(refused(&format!("{SMALLEST}\n[cache]\nentries = 0")).contains("cache.entries"));
    assert!(refused(&format!("{SMALLEST}\n[compiler]\ncode_bytes = 0")).contains("compiler.code_bytes"));
    assert!(refused(&format!("{SMALLEST}\n[audit]\nfiles = 1")).contains("audit.files"));
    assert!(refused(&format!("{SMALLEST}\n[audit]\nfile_bytes = 1")).contains("audit.file_bytes"));
    for seconds in ["0", "-1", "nan", "inf", "1e9"] {
        let text = format!("{SMALLEST}\n[limits]\nhandshake_seconds = {seconds}");
        assert!(refused(&text).contains("time-out"), "{seconds}");
    }
    let whole = parse(&format!("{SMALLEST}\n[limits]\nhandshake_seconds = 3")).expect("an integer");
    assert_eq!(whole.limits.handshake_seconds.duration(), Duration::from_secs(3));
}

/// A file that is cut off behind `publishers` denies nobody any more.
#[test]
fn a_configuration_that_ends_with_its_mark_is_not_followed_by_one_without() {
    let folder = std::env::temp_dir().join(format!("stepbox-end-mark-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("server.toml");
    let load = |text: &str| {
        std::fs::write(&path, text).expect("written");
        Config::load(&path)
    };
    let rights = "[access]\noperators = ['bob']\nworker_rights = ['push']\ndenied = ['eve']\n";
    let whole = format!("{SMALLEST}\n{rights}\n[end] # all of it\n");
    let in_force = load(&whole).expect("a configuration");
    assert!(in_force.end.is_some());
    let end = whole.find("[end]").expect("the mark") + "[end]".len();
    for length in (0..whole.len()).filter(|length| whole.is_char_boundary(*length)) {
        std::fs::write(&path, &whole[..length]).expect("written");
        assert_eq!(in_force.load_again(&path).is_ok(), length >= end, "{length} bytes");
    }
    // Who does not use the mark does without.
    let unmarked = load(&format!("{SMALLEST}\n{rights}")).expect("a configuration");
    assert!(unmarked.load_again(&path).is_ok());
    let misplaced = load(&format!("{SMALLEST}\n[end]\n{rights}")).expect_err("something follows");
    assert!(misplaced.to_string().contains("`[end]`"), "{misplaced}");
    std::fs::remove_dir_all(&folder).expect("removed");
}
