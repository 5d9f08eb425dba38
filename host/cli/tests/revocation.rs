//! `stepbox ca revoke`, `--hours` and `--spiffe-id`, and a server in a process of its own that reads its files again.

#![cfg(unix)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use common::Folder;
use serde_json::Value;
use x509_parser::parse_x509_crl;
use x509_parser::pem::parse_x509_pem;

fn authority() -> Folder {
    let folder = Folder::new();
    folder.done("ca init --directory ca");
    for name in ["worker-0", "worker-1", "bob"] {
        folder.done(&format!("ca issue --directory ca --name {name}"));
    }
    folder
}

/// Number, serial numbers and end of the authority's list.
fn list(folder: &Folder) -> (String, Vec<String>, i64) {
    let pem = fs::read(folder.path("ca/crl.pem")).unwrap();
    let (_, pem) = parse_x509_pem(&pem).unwrap();
    let (_, list) = parse_x509_crl(&pem.contents).unwrap();
    let serials = list.iter_revoked_certificates().map(|entry| format!("{:x}", entry.user_certificate));
    (list.crl_number().unwrap().to_string(), serials.collect(), list.next_update().unwrap().timestamp())
}

/// When a certificate ends.
fn end(folder: &Folder, file: &str) -> i64 {
    let pem = fs::read(folder.path(file)).unwrap();
    let (_, pem) = parse_x509_pem(&pem).unwrap();
    pem.parse_x509().unwrap().validity().not_after.timestamp()
}

#[test]
fn a_list_grows_and_never_shrinks() {
    let folder = authority();
    let made = folder.done("ca revoke --directory ca --json").json();
    assert_eq!(made["entries"], 0);
    assert_eq!(list(&folder), ("1".into(), vec![], end(&folder, "ca/ca.pem")));

    let lost = folder.done("ca issue --directory ca --name lost --json").json();
    let serial = lost["serial"].as_str().unwrap();
    folder.done(&format!("ca revoke --directory ca --name worker-0 --serial {serial}"));
    let (number, serials, _) = list(&folder);
    assert_eq!((number.as_str(), serials.len()), ("2", 2));
    assert!(serials.iter().any(|other| other == serial.trim_start_matches('0')), "{serials:?} {serial}");

    let again = folder.done("ca revoke --directory ca --name worker-0 --certificate ca/bob.pem --json").json();
    assert_eq!((again["revoked"].as_array().unwrap().len(), &again["entries"]), (1, &Value::from(3)));
    folder.done("ca revoke --directory ca --days 3");
    let (number, after, until) = list(&folder);
    assert_eq!((number.as_str(), after.len()), ("4", 3));
    assert!(serials.iter().all(|serial| after.contains(serial)));
    assert!(until < end(&folder, "ca/ca.pem"));
}

#[test]
fn only_what_the_authority_has_signed_is_revoked_and_no_other_list_is_taken_over() {
    let (folder, other) = (authority(), authority());
    folder.write("stranger.pem", other.read("ca/bob.pem"));
    for (arguments, what) in [
        ("ca revoke --directory ca --certificate stranger.pem", "another authority"),
        ("ca revoke --directory ca --name nobody", "nobody.pem"),
        ("ca revoke --directory ca --name ../ca/bob", "no name"),
        ("ca revoke --directory ca --serial xyz", "hexadecimal"),
        ("ca revoke --directory none --name bob", "no authority"),
    ] {
        let run = folder.run(arguments);
        assert_eq!(run.code(), 1, "{arguments}");
        assert!(run.stderr().contains(what), "{arguments}: {}", run.stderr());
        assert!(!folder.path("ca/crl.pem").exists(), "{arguments}");
    }
    other.done("ca revoke --directory ca --name bob");
    folder.write("ca/crl.pem", other.read("ca/crl.pem"));
    let run = folder.run("ca revoke --directory ca --name bob");
    assert_eq!(run.code(), 1);
    assert!(run.stderr().contains("this authority"), "{}", run.stderr());
    assert_eq!(folder.read("ca/crl.pem"), other.read("ca/crl.pem"), "nothing is overwritten");
}

#[test]
fn certificates_may_last_hours_and_name_workloads() {
    let folder = authority();
    folder.done("ca issue --directory ca --name short --hours 2");
    let day = 86_400;
    assert!(end(&folder, "ca/short.pem") < end(&folder, "ca/worker-0.pem") - 80 * day);
    let id = "spiffe://example.org/training/worker-0";
    let issued = folder.done(&format!("ca issue --directory ca --name workload --spiffe-id {id} --json")).json();
    assert_eq!(issued["spiffe_id"], id);
    for (arguments, code) in [
        ("--spiffe-id worker-0", 1),
        ("--spiffe-id spiffe://example.org", 1),
        ("--spiffe-id spiffe://example.org/a/../b", 1),
        ("--spiffe-id SPIFFE://example.org/a", 1),
        ("--hours 1 --days 1", 2),
        ("--hours 0", 2),
    ] {
        let run = folder.run(&format!("ca issue --directory ca --name wrong {arguments}"));
        assert_eq!(run.code(), code, "{arguments}: {}", run.stderr());
        assert!(!folder.path("ca/wrong.pem").exists(), "{arguments}");
    }
}

/// A server that is killed where the test ends.
struct Server(Child, String);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(folder: &Folder) -> Server {
    let mut server = folder
        .command(["serve", "--config", "server.toml", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let listening: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    Server(server, listening["listening"].as_str().unwrap().to_owned())
}

#[test]
fn a_running_server_takes_a_new_list_and_new_rights_when_it_is_told_to() {
    let folder = authority();
    folder.publisher("publisher");
    folder.done("ca issue --directory ca --name server --server");
    folder.done("ca issue --directory ca --name carol --spiffe-id spiffe://example.org/carol");
    folder.done("ca revoke --directory ca");
    let configuration = "listen = '127.0.0.1:0'\nstate_directory = 'state'\n\
         [tls]\nca = 'ca/ca.pem'\ncertificate = 'ca/server.pem'\nkey = 'ca/server.key'\n\
         revocation_lists = ['ca/crl.pem']\nreload_seconds = 3600\n\
         [jobs.vision]\nworkers = ['worker-0']\n\
         [jobs.vision.access]\noperators = ['bob']\n\
         [trust]\nstore = 'publisher.toml'\n";
    folder.write("server.toml", configuration);
    let server = serve(&folder);
    let ask = |name: &str| {
        let address = &server.1;
        let connection = format!("--server {address} --ca ca/ca.pem --certificate ca/{name}.pem --key ca/{name}.key");
        folder.run(&format!("status {connection} --job vision"))
    };
    assert_eq!(ask("bob").code(), 0);
    assert!(ask("bob").stdout().contains("vision"));
    assert_eq!(ask("carol").code(), 20, "forbidden");
    // The environment names the job as well.
    let profile =
        format!("server = '{}'\nca = 'ca/ca.pem'\ncertificate = 'ca/bob.pem'\nkey = 'ca/bob.key'\n", server.1);
    folder.write("bob.toml", profile);
    assert_eq!(folder.run("status --profile bob.toml").code(), 20, "there is no default job");
    let named = folder.command(["status", "--profile", "bob.toml"]).env("STEPBOX_JOB", "vision").output().unwrap();
    assert!(named.status.success());

    folder.done("ca revoke --directory ca --name bob");
    folder.write("server.toml", configuration.replace("'bob'", "'bob', 'spiffe://example.org/carol'"));
    let told = Command::new("kill").args(["-HUP", &server.0.id().to_string()]).status().unwrap();
    assert!(told.success());
    // It reads them in a moment.
    while ask("bob").code() != 4 || ask("carol").code() != 0 {}
}
