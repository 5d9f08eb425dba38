//! Requirements of a server's policy: several signers, namespaces, keys that are revoked or expire.

use std::fs;

use stepbox_client::{DeployOptions, ErrorCode};
use stepbox_tests::{Options, Publisher, TestServer};

use crate::refused;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_policy_of_two_signers_holds_at_a_real_server() {
    let server = TestServer::start(Options::new("signers"));
    let board = Publisher::new();
    let policy = |period: &str, more: &str| {
        let text = format!(
            "format = 1\n{more}\n\
             [[publisher]]\nname = 'Team A'\npublic_key = '{}'\nnamespaces = []\n\
             [[publisher]]\nname = 'Board'\nnamespaces = []\n\
             [[publisher.key]]\npublic_key = '{}'\n{period}\n\
             [[rule]]\nnames = ['team-a/*']\nsigners = ['Team A', 'Board']\nthreshold = 2\n[end]\n",
            server.publisher.public_key(),
            board.public_key()
        );
        fs::write(server.authority.folder().join("publishers.toml"), text).unwrap();
    };
    policy("", "");
    let deployer = server.client("deployer").await;
    let deploy = async |file: &[u8]| deployer.deploy(file.to_vec(), &DeployOptions::default()).await;

    let one = server.publisher.sign_as("adamw", "team-a/adamw", "1.0.0");
    let (code, message) = refused(deploy(&one).await);
    assert_eq!(code, ErrorCode::Untrusted);
    assert!(message.contains("signed by Board"), "{message}");
    assert!(server.status().await.optimizer.is_none());

    let both = board.sign_too(&one);
    deploy(&both).await.unwrap();
    assert_eq!(server.status().await.optimizer.unwrap().name, "team-a/adamw");

    let newer = |name: &str| board.sign_too(&server.publisher.sign_as("adamw", name, "1.1.0"));
    for (period, more, name) in [
        ("valid_until = 2020-01-01", "", "team-a/adamw"),
        ("valid_from = 2999-01-01", "", "team-a/adamw"),
        ("", &*format!("revoked_keys = ['{}']", board.public_key().id()), "team-a/adamw"),
        ("", "minimum_versions = { 'team-a/adamw' = '1.2.0' }", "team-a/adamw"),
        ("", "", "team-b/adamw"),
        ("", "", "adamw"),
    ] {
        policy(period, more);
        assert_eq!(refused(deploy(&newer(name)).await).0, ErrorCode::Untrusted, "{period}{more} {name}");
        assert_eq!(server.status().await.optimizer.unwrap().version, "1.0.0");
    }
    policy("valid_from = 2020-01-01\nvalid_until = 2999-01-01", "");
    // A component that describes itself with a name other than the signed one is refused.
    let other = board.sign_too(&server.publisher.sign_as("sgd", "team-a/adamw", "1.1.0"));
    assert_eq!(refused(deploy(&other).await).0, ErrorCode::NotAdmitted);
    deploy(&newer("team-a/adamw")).await.unwrap();
    assert_eq!(server.status().await.optimizer.unwrap().version, "1.1.0");
}
