//! A real server, run by `serve`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{Folder, component};

/// A folder with an authority, a publisher, signed optimizers, and a server that runs in it.
pub struct Scene {
    pub folder: Folder,
    pub server: Child,
    pub address: String,
}

impl Scene {
    pub fn new() -> Self {
        Self::configured("")
    }

    /// With more in its configuration.
    pub fn configured(more: &str) -> Self {
        let folder = Folder::new();
        folder.publisher("publisher");
        folder.done("ca init --directory ca");
        folder.done("ca issue --directory ca --name server --server");
        for name in ["alice", "bob", "carol", "dave", "worker-0"] {
            folder.done(&format!("ca issue --directory ca --name {name}"));
        }
        folder.write("adamw.wasm", component("adamw"));
        for version in ["1.0.0", "1.1.0"] {
            folder.done(&format!(
                "sign adamw.wasm --key publisher.key --name adamw --version {version} --out adamw-{version}.wasm"
            ));
        }
        folder.write(
            "server.toml",
            format!(
                "listen = '127.0.0.1:0'\n\
             state_directory = 'state'\n\
             [tls]\nca = 'ca/ca.pem'\ncertificate = 'ca/server.pem'\nkey = 'ca/server.key'\n\
             [job]\nworkers = ['worker-0']\n\
             [access]\npublishers = ['alice', 'carol']\ndeployers = ['alice', 'dave']\noperators = ['bob']\n\
             [trust]\nstore = 'publisher.toml'\n{more}\n"
            ),
        );
        let (server, address) = serve(&folder, &[]);
        Self { folder, server, address }
    }

    /// The options by which somebody reaches the server.
    pub fn connection(&self, identity: &str) -> String {
        format!("--server {} --ca ca/ca.pem --certificate ca/{identity}.pem --key ca/{identity}.key", self.address)
    }

    /// Ends the server and starts it again with these arguments. Gives the log of the one that ended.
    pub fn restart(&mut self, arguments: &[&str]) -> String {
        let (_, log) = self.stop();
        (self.server, self.address) = serve(&self.folder, arguments);
        log
    }

    /// Asks the server to end, and gives its exit code and its log.
    pub fn stop(&mut self) -> (Option<i32>, String) {
        let killed = Command::new("kill").args(["-TERM", &self.server.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let mut log = String::new();
        self.server.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.server.wait().unwrap().code(), log)
    }
}

/// Starts a server and waits until it listens.
pub fn serve(folder: &Folder, arguments: &[&str]) -> (Child, String) {
    let mut program = folder.command(["serve", "--config", "server.toml", "--json", "--log-format", "json"]);
    let mut server = program.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let listening: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    (server, listening["listening"].as_str().unwrap().to_owned())
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Ended already where the test got that far.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
