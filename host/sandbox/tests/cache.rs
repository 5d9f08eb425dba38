//! The compile cache: what it saves, and that any problem with it results in a new compilation.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::{Training, component, values};
use stepbox_sandbox::{
    AdmittedComponent, CacheError, CompileCache, DEFAULT_CACHE_BYTES, DEFAULT_CACHE_ENTRIES, Limits, Miss, Origin,
    Sandbox, SandboxConfig, WasiPolicy,
};

/// A cache directory that consecutive servers use.
struct Cache(tempfile::TempDir);

impl Cache {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("compiled")
    }

    fn open(&self) -> Result<CompileCache, CacheError> {
        CompileCache::open(self.path(), DEFAULT_CACHE_ENTRIES, DEFAULT_CACHE_BYTES)
    }

    /// Admits a component as a newly started server does.
    fn admit(&self, name: &str) -> AdmittedComponent {
        self.admit_with(name, SandboxConfig::default())
    }

    fn admit_with(&self, name: &str, config: SandboxConfig) -> AdmittedComponent {
        Sandbox::new(config).unwrap().with_cache(self.open().unwrap()).admit(&component(name)).unwrap()
    }

    /// Where the code of `sgd` comes from.
    fn origin(&self) -> Origin {
        self.admit("sgd").admission().origin.clone()
    }

    fn files(&self, extension: &str) -> Vec<PathBuf> {
        let files = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension() == Some(OsStr::new(extension))).collect()
    }

    /// The path of the only entry.
    fn entry(&self) -> PathBuf {
        match &self.files("native")[..] {
            [entry] => entry.clone(),
            entries => panic!("{} entries instead of one", entries.len()),
        }
    }

    fn key(&self) -> PathBuf {
        self.path().join("key")
    }
}

fn missed(miss: Miss) -> Origin {
    Origin::Compiled(Some(miss))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_restarted_server_finds_the_component_and_it_trains_to_the_same_bits() {
    let cache = Cache::new();
    let compiled = cache.admit("adamw");
    assert_eq!(compiled.admission().origin, missed(Miss::Absent));
    let cached = cache.admit("adamw");
    assert_eq!(cached.admission().origin, Origin::Cached);
    assert!(cached.admission().trial.is_zero());
    assert_eq!(cached.description(), compiled.description());
    assert_eq!(cached.fuel(), compiled.fuel());
    assert_eq!((cached.imports(), cached.exports()), (compiled.imports(), compiled.exports()));

    let end = |component: &AdmittedComponent| {
        let mut training = Training::new(component, component.configure(None, &[]).unwrap(), &values(5000, 0));
        (1..=3).for_each(|round| training.round(&values(5000, round)).unwrap());
        training.state()
    };
    assert_eq!(end(&cached), end(&compiled));
}

#[test]
fn a_component_in_use_is_neither_compiled_nor_read_again() {
    let sandbox = Sandbox::new(SandboxConfig::default()).unwrap();
    let bytes = component("sgd");
    let first = sandbox.admit(&bytes).unwrap();
    assert_eq!(first.admission().origin, Origin::Compiled(None));
    let second = sandbox.admit(&bytes).unwrap();
    assert_eq!(second.admission().origin, Origin::InUse);
    assert_eq!(second.fuel(), first.fuel());
    drop((first, second));
    assert_eq!(sandbox.admit(&bytes).unwrap().admission().origin, Origin::Compiled(None));
}

#[test]
fn directory_and_files_are_their_owners_alone() {
    let cache = Cache::new();
    cache.admit("sgd");
    assert_eq!(mode(&cache.path()), 0o700);
    assert_eq!([mode(&cache.key()), mode(&cache.entry())], [0o600; 2]);
    assert_eq!(cache.files("partial").len(), 0);
}

#[test]
fn other_limits_have_an_entry_of_their_own() {
    let cache = Cache::new();
    cache.admit("sgd");
    // The outcome of the trial depends on these limits, although the code does not.
    let limits = Limits { fuel_per_element: 1000, ..Limits::default() };
    let other = cache.admit_with("sgd", SandboxConfig { limits, ..SandboxConfig::default() });
    assert_eq!(other.admission().origin, missed(Miss::Absent));
    let wasi = cache.admit_with("sgd", SandboxConfig { wasi: WasiPolicy::Empty, ..SandboxConfig::default() });
    assert_eq!(wasi.admission().origin, missed(Miss::Absent));
    assert_eq!(cache.files("native").len(), 3);
    assert_eq!(cache.origin(), Origin::Cached);
}

#[test]
fn what_is_not_admitted_is_not_kept() {
    let cache = Cache::new();
    let sandbox = Sandbox::new(SandboxConfig::default()).unwrap().with_cache(cache.open().unwrap());
    assert!(sandbox.admit(&component("hostile/nan-output")).is_err());
    assert!(sandbox.admit(b"no component").is_err());
    assert_eq!(cache.files("native").len(), 0);
}

#[test]
fn a_changed_entry_is_never_run_but_replaced() {
    let cache = Cache::new();
    cache.admit("sgd");
    let good = fs::read(cache.entry()).unwrap();
    // The format, the authentication, both digests, the fuel, and the start, middle and end of the code.
    for byte in [0, 7, 8, 39, 40, 72, 104, 136, 200, good.len() / 2, good.len() - 1] {
        let mut changed = good.clone();
        changed[byte] ^= 0x10;
        fs::write(cache.entry(), &changed).unwrap();
        let expected = if byte < 8 { Miss::OtherFormat } else { Miss::NotAuthentic };
        assert_eq!(cache.origin(), missed(expected), "byte {byte}");
        assert_eq!(cache.origin(), Origin::Cached, "byte {byte}");
    }
}

#[test]
fn a_truncated_extended_empty_or_senseless_entry_is_replaced() {
    let cache = Cache::new();
    cache.admit("sgd");
    let good = fs::read(cache.entry()).unwrap();
    for (content, expected) in [
        (good[..good.len() / 2].to_vec(), Miss::NotAuthentic),
        ([&good[..], b"more"].concat(), Miss::NotAuthentic),
        (Vec::new(), Miss::NotAnEntry),
        (b"\x7fELF and then nothing that makes sense".to_vec(), Miss::OtherFormat),
        (good[136..].to_vec(), Miss::OtherFormat),
    ] {
        fs::write(cache.entry(), content).unwrap();
        assert_eq!(cache.origin(), missed(expected));
        assert_eq!(cache.origin(), Origin::Cached);
    }
}

#[test]
fn another_components_entry_under_this_ones_name_is_not_used() {
    let cache = Cache::new();
    cache.admit("sgd");
    let name = cache.entry();
    fs::rename(&name, cache.path().join("aside")).unwrap();
    cache.admit("signum");
    fs::rename(cache.entry(), &name).unwrap();
    assert_eq!(cache.origin(), missed(Miss::OtherSubject));
    assert_eq!(cache.origin(), Origin::Cached);
}

#[test]
fn an_entry_made_with_another_key_is_not_used() {
    let (cache, other) = (Cache::new(), Cache::new());
    cache.admit("sgd");
    other.admit("sgd");
    fs::copy(other.entry(), cache.entry()).unwrap();
    assert_eq!(cache.origin(), missed(Miss::NotAuthentic));
    // A new key invalidates all entries.
    fs::remove_file(cache.key()).unwrap();
    assert_eq!(cache.origin(), missed(Miss::NotAuthentic));
    assert_eq!(cache.origin(), Origin::Cached);
}

#[test]
fn a_link_or_folder_in_an_entrys_place_is_not_followed() {
    let cache = Cache::new();
    cache.admit("sgd");
    let entry = cache.entry();
    let elsewhere = cache.0.path().join("elsewhere");
    fs::rename(&entry, &elsewhere).unwrap();
    symlink(&elsewhere, &entry).unwrap();
    assert!(matches!(cache.origin(), Origin::Compiled(Some(Miss::Unreadable(_)))));
    // The link itself was replaced, not its target.
    assert!(fs::symlink_metadata(&entry).unwrap().is_file());
    assert_eq!(cache.origin(), Origin::Cached);

    fs::remove_file(&entry).unwrap();
    fs::create_dir(&entry).unwrap();
    assert_eq!(cache.origin(), missed(Miss::NotAnEntry));
}

#[test]
fn a_key_or_directory_that_others_can_get_at_is_refused() {
    let cache = Cache::new();
    cache.admit("sgd");
    for mode in [0o644, 0o640, 0o620, 0o602] {
        set_mode(&cache.key(), mode);
        assert!(matches!(cache.open(), Err(CacheError::Exposed { mode: found, .. }) if found == mode));
    }
    set_mode(&cache.key(), 0o600);
    for mode in [0o755, 0o750, 0o770, 0o701] {
        set_mode(&cache.path(), mode);
        assert!(matches!(cache.open(), Err(CacheError::Exposed { mode: found, .. }) if found == mode));
    }
    set_mode(&cache.path(), 0o700);
    assert_eq!(cache.origin(), Origin::Cached);
}

#[test]
fn a_link_in_the_keys_or_the_directorys_place_is_refused() {
    let cache = Cache::new();
    cache.admit("sgd");
    let elsewhere = cache.0.path().join("elsewhere");
    fs::rename(cache.key(), &elsewhere).unwrap();
    symlink(&elsewhere, cache.key()).unwrap();
    assert!(matches!(cache.open(), Err(CacheError::NotPlain { .. })));
    // A key is not created through a dangling link either.
    fs::remove_file(&elsewhere).unwrap();
    assert!(cache.open().is_err());
    assert!(!elsewhere.exists());

    fs::rename(cache.path(), &elsewhere).unwrap();
    symlink(&elsewhere, cache.path()).unwrap();
    assert!(matches!(cache.open(), Err(CacheError::NotPlain { .. })));
}

#[test]
fn a_key_of_the_wrong_length_is_refused() {
    let cache = Cache::new();
    cache.admit("sgd");
    let key = fs::read(cache.key()).unwrap();
    for content in [&key[..31], &[], &[&key[..], b"x"].concat()] {
        fs::write(cache.key(), content).unwrap();
        assert!(matches!(cache.open(), Err(CacheError::DamagedKey { .. })));
    }
}

#[test]
fn a_directory_of_another_user_is_refused() {
    // On any machine the root directory belongs to the superuser or, if the superuser runs this test, is open to
    // others.
    let error = CompileCache::open("/", 1, 1).err().unwrap();
    assert!(matches!(error, CacheError::Foreign { .. } | CacheError::Exposed { .. }), "{error}");
}

#[test]
fn what_was_not_used_for_the_longest_time_goes_first() {
    let cache = Cache::new();
    let admit = |name: &str, entries, bytes| {
        let opened = CompileCache::open(cache.path(), entries, bytes).unwrap();
        let sandbox = Sandbox::new(SandboxConfig::default()).unwrap().with_cache(opened);
        sandbox.admit(&component(name)).unwrap().admission().origin.clone()
    };
    admit("sgd", 2, DEFAULT_CACHE_BYTES);
    age(&cache.files("native"), Duration::from_secs(60));
    admit("signum", 2, DEFAULT_CACHE_BYTES);
    age(&cache.files("native"), Duration::from_secs(30));
    // Just used, so that the other entry is evicted next.
    assert_eq!(admit("sgd", 2, DEFAULT_CACHE_BYTES), Origin::Cached);
    admit("lion", 2, DEFAULT_CACHE_BYTES);
    assert_eq!(cache.files("native").len(), 2);
    assert_eq!(admit("sgd", 2, DEFAULT_CACHE_BYTES), Origin::Cached);
    assert_eq!(admit("signum", 2, DEFAULT_CACHE_BYTES), missed(Miss::Absent));

    let one = fs::metadata(&cache.files("native")[0]).unwrap().len();
    admit("ftrl", 64, one + one / 2);
    assert_eq!(cache.files("native").len(), 1);
    // An entry that is too large by itself is not stored, and an existing one is no longer used.
    assert!(matches!(admit("ftrl", 64, 1000), Origin::Compiled(Some(_))));
    assert_eq!(cache.files("native").len(), 0);
}

#[test]
fn files_of_servers_that_died_are_removed_and_those_of_others_stay() {
    let cache = Cache::new();
    cache.open().unwrap();
    let (abandoned, fresh, foreign) =
        (cache.path().join("1.partial"), cache.path().join("2.partial"), cache.path().join("notes.txt"));
    [&abandoned, &fresh, &foreign].into_iter().for_each(|path| fs::write(path, "x").unwrap());
    age(&[abandoned.clone(), foreign.clone()], Duration::from_secs(7200));
    cache.admit("sgd");
    assert!(!abandoned.exists() && fresh.exists() && foreign.exists());
}

#[test]
fn servers_that_start_at_the_same_time_share_a_key() {
    let cache = Cache::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| cache.open().unwrap());
        }
    });
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| cache.admit("sgd"));
        }
    });
    assert_eq!(cache.origin(), Origin::Cached);
    assert_eq!(cache.files("partial").len(), 0);
}

/// Moves the time of last use of files back by `by`.
fn age(files: &[PathBuf], by: Duration) {
    for path in files {
        let file = fs::File::open(path).unwrap();
        let before = file.metadata().unwrap().modified().unwrap();
        assert!(before <= SystemTime::now());
        file.set_modified(before - by).unwrap();
    }
}
