//! Where a server's files are: paths that cannot be used, keys as they are delivered, links that are switched.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::server::{Scene, serve};
use common::{Folder, allow_root};
use serde_json::Value;

/// How long something may take that is bound to come.
const HANGS: Duration = Duration::from_secs(60);

#[test]
fn a_path_that_cannot_be_used_is_an_error_that_names_its_field() {
    let mut scene = Scene::new();
    scene.stop();
    let configuration = scene.folder.read("server.toml");
    let with = |more: &str| format!("{configuration}\n{more}\n");
    let changed = |from: &str, to: &str| configuration.replace(from, to);
    symlink("nowhere", scene.folder.path("dangling.toml")).unwrap();
    for (field, text) in [
        // Below a file nobody can make a directory, root included.
        ("cache.directory", with("[cache]\ndirectory = 'server.toml/cache'")),
        ("cache.directory", with("[process]\nsandbox = 'off'\n[cache]\ndirectory = 'server.toml/cache'")),
        ("audit.directory", with("[audit]\ndirectory = 'server.toml/audit'")),
        ("state_directory", changed("'state'", "'server.toml/state'")),
        ("trust.store", changed("'publisher.toml'", "'absent/publisher.toml'")),
        ("trust.store", changed("'publisher.toml'", "'dangling.toml'")),
        ("tls.ca", changed("'ca/ca.pem'", "'absent/ca.pem'")),
        ("tls.ca", changed("'ca/ca.pem'", "'/ca.pem'")),
        ("trust.store", changed("'publisher.toml'", "'/etc/publisher.toml'")),
        ("process.read_directories", with("[process]\nread_directories = ['absent']")),
        ("process.read_directories", with("[process]\nread_directories = ['/etc']")),
    ] {
        scene.folder.write("wrong.toml", &text);
        let run = scene.folder.run("serve --config wrong.toml --json");
        assert_eq!(run.code(), 1, "{field}: {}", run.stderr());
        let said: Value = serde_json::from_str(run.stdout().trim()).unwrap();
        let message = said["error"]["message"].as_str().unwrap();
        assert_eq!(said["error"]["code"], "configuration", "{message}");
        assert!(message.contains(&format!("`{field}`")) && message.contains("wrong.toml"), "{field}: {message}");
    }
}

/// The user and the group of a server that root starts for itself here.
const SERVER: (u32, u32) = (65_534, 54_321);

/// Starts the server as its own user. What it prints first: where it listens, or why it does not.
fn started_as_server(scene: &Scene) -> Value {
    let mut program = scene.folder.command(["serve", "--config", "server.toml", "--json"]);
    let mut server = program.uid(SERVER.0).gid(SERVER.1).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    // Ended already where it has not started.
    let _ = server.kill();
    server.wait().unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// An access control list by which this user may read besides the owner, as systemd makes for `LoadCredential`.
fn let_read(path: &Path, user: u32) -> rustix::io::Result<()> {
    const READ: u16 = 4;
    let (owner, named, group, mask, other) = (0x01_u16, 0x02, 0x04, 0x10, 0x20);
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in [
        (owner, READ, u32::MAX),
        (named, READ, user),
        (group, 0, u32::MAX),
        (mask, READ, u32::MAX),
        (other, 0, u32::MAX),
    ] {
        list.extend(tag.to_le_bytes());
        list.extend(rights.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    rustix::fs::setxattr(path, "system.posix_acl_access", &list, rustix::fs::XattrFlags::empty())
}

#[test]
fn a_key_is_taken_as_secrets_are_delivered_and_not_where_others_can_use_it() {
    if allow_root().is_none() {
        eprintln!("NOT TESTED: only root can give files to others");
        return;
    }
    let mut scene = Scene::new();
    scene.stop();
    let key = scene.folder.path("ca/server.key");
    for folder in ["", "ca"] {
        fs::set_permissions(scene.folder.path(folder), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::remove_dir_all(scene.folder.path("state")).unwrap();
    fs::create_dir(scene.folder.path("state")).unwrap();
    chown(scene.folder.path("state"), Some(SERVER.0), Some(SERVER.1)).unwrap();
    for file in ["server.toml", "publisher.toml", "ca/ca.pem", "ca/server.pem"] {
        fs::set_permissions(scene.folder.path(file), fs::Permissions::from_mode(0o644)).unwrap();
    }
    let (root, group, stranger) = (0, SERVER.1, 1234);
    for (owner, mode, refusal) in [
        (root, 0o440, None),
        (root, 0o640, None),
        (SERVER.0, 0o600, None),
        (SERVER.0, 0o400, None),
        (root, 0o444, Some("has mode 0444")),
        (root, 0o460, Some("has mode 0460")),
        (SERVER.0, 0o640, Some("has mode 0640")),
        (SERVER.0, 0o604, Some("has mode 0604")),
        (stranger, 0o440, Some("belongs to user 1234")),
    ] {
        chown(&key, Some(owner), Some(group)).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let said = started_as_server(&scene);
        match refusal {
            None => assert!(said["listening"].is_string(), "{owner} {mode:o}: {said}"),
            Some(words) => {
                let message = said["error"]["message"].as_str().unwrap_or_else(|| panic!("{owner} {mode:o}: {said}"));
                assert!(message.contains(words) && message.contains("server.key"), "{owner} {mode:o}: {message}");
            }
        }
    }
    chown(&key, Some(root), Some(0)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
    match let_read(&key, SERVER.0) {
        Ok(()) => {
            let said = started_as_server(&scene);
            assert!(said["listening"].is_string(), "{said}");
        }
        Err(error) => eprintln!("NOT TESTED: this file system has no access control lists: {error}"),
    }
}

/// A server whose authority and revocation list are in a release that a link leads to, away from its other files. The
/// next release revokes carol.
fn with_releases(process: impl FnOnce(&Path) -> String) -> (Scene, Folder) {
    let (mut scene, elsewhere) = (Scene::new(), Folder::new());
    scene.stop();
    scene.folder.done("ca revoke --directory ca");
    let release = |name: &str| {
        let folder = elsewhere.path("releases").join(name);
        fs::create_dir_all(&folder).unwrap();
        for file in ["ca.pem", "crl.pem"] {
            fs::copy(scene.folder.path("ca").join(file), folder.join(file)).unwrap();
        }
    };
    release("one");
    scene.folder.done("ca revoke --directory ca --name carol");
    release("two");
    symlink("releases/one", elsewhere.path("current")).unwrap();
    let current = elsewhere.path("current");
    let configuration = scene.folder.read("server.toml");
    let configuration =
        configuration.replace("ca = 'ca/ca.pem'", &format!("ca = {:?}", current.join("ca.pem"))).replace(
            "[tls]\n",
            &format!("[tls]\nreload_seconds = 0.1\nrevocation_lists = [{:?}]\n", current.join("crl.pem")),
        );
    let process = process(&elsewhere.path("releases"));
    scene.folder.write("server.toml", format!("{configuration}\n[process]\n{process}\n"));
    (scene.server, scene.address) = serve(&scene.folder, &[]);
    (scene, elsewhere)
}

/// Switches the link as deployment tools do: in one step.
fn switch(elsewhere: &Folder) {
    symlink("releases/two", elsewhere.path("next")).unwrap();
    fs::rename(elsewhere.path("next"), elsewhere.path("current")).unwrap();
}

fn status(scene: &Scene) -> Value {
    scene.folder.done(&format!("status {} --json", scene.connection("bob"))).json()
}

fn has_landlock(scene: &Scene) -> bool {
    let status = status(scene);
    let protections = status["protections"].as_array().unwrap();
    protections.iter().any(|protection| protection["name"] == "landlock" && protection["active"] == true)
}

#[test]
fn a_link_that_is_switched_to_a_folder_that_is_not_open_is_told_at_the_start_and_in_the_status() {
    let (mut scene, elsewhere) = with_releases(|_| String::new());
    if !has_landlock(&scene) {
        eprintln!("NOT TESTED: this kernel has no Landlock");
        return;
    }
    switch(&elsewhere);
    let deadline = Instant::now() + HANGS;
    let warnings = loop {
        let warnings = status(&scene)["warnings"].to_string();
        if warnings.contains("Landlock") {
            break warnings;
        }
        assert!(Instant::now() < deadline, "{warnings}");
    };
    assert!(warnings.contains("process.read_directories") && warnings.contains("cannot be used"), "{warnings}");
    let (_, log) = scene.stop();
    let told = log.lines().find(|line| line.contains("lead through a symbolic link")).expect("told at the start");
    let releases = elsewhere.path("releases").canonicalize().unwrap();
    assert!(told.contains("/current") && told.contains(releases.to_str().unwrap()), "{told}");
    assert!(told.contains("tls.ca") && told.contains("tls.revocation_lists"), "{told}");
}

#[test]
fn a_link_that_is_switched_within_an_open_folder_is_followed_and_a_revocation_taken() {
    let (mut scene, elsewhere) = with_releases(|releases| format!("read_directories = [{releases:?}]"));
    let carol = format!("status {}", scene.connection("carol"));
    assert_eq!(scene.folder.run(&carol).code(), 20, "she gets in, and has no right to the status");
    switch(&elsewhere);
    let deadline = Instant::now() + HANGS;
    while scene.folder.run(&carol).code() != 4 {
        assert!(Instant::now() < deadline, "she is on the list");
    }
    assert_eq!(status(&scene)["warnings"].as_array().map_or(0, Vec::len), 0);
    let (_, log) = scene.stop();
    assert!(!log.contains("symbolic link") && !log.contains("Permission denied"), "{log}");
}

#[test]
fn a_server_without_file_descriptors_says_so_and_goes_on() {
    let mut scene = Scene::new();
    scene.stop();
    let configuration = scene.folder.read("server.toml");
    scene.folder.write("server.toml", format!("{configuration}\n[limits]\nconnections_per_identity = 200\n"));
    let server = scene.folder.command(["serve", "--config", "server.toml", "--json"]);
    let mut program = Command::new("sh");
    program.args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""]).arg(server.get_program()).args(server.get_args());
    program.current_dir(scene.folder.path("")).envs(allow_root()).stdout(Stdio::piped()).stderr(Stdio::null());
    scene.server = program.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(scene.server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let listening: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let path = |name: &str| scene.folder.path("ca").join(name);
    let config = stepbox_client::ClientConfig::new(
        listening["listening"].as_str().unwrap(),
        path("ca.pem"),
        path("bob.pem"),
        path("bob.key"),
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut clients = Vec::new();
        let refusal = loop {
            match stepbox_client::Client::connect(&config).await {
                Ok(client) => clients.push(client),
                Err(error) => break error,
            }
            assert!(clients.len() < 64, "more connections than descriptors");
        };
        assert_eq!(refusal.code(), Some(stepbox_client::ErrorCode::Busy), "{refusal}");
        assert!(refusal.to_string().contains("no file descriptor left"), "{refusal}");
        let again = stepbox_client::Client::connect(&config).await.expect_err("there is still none");
        assert_eq!(again.code(), Some(stepbox_client::ErrorCode::Busy), "the next one is told too: {again}");
        clients[0].status(false).await.expect("those that are there are served");
        for client in clients {
            client.close().await;
        }
        let deadline = Instant::now() + HANGS;
        while let Err(error) = stepbox_client::Client::connect(&config).await {
            assert!(Instant::now() < deadline, "descriptors are free again: {error}");
        }
    });
}
