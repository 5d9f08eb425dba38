//! Learning rates: from a schedule, the same for all keys in the same round, changed while training runs.
//!
//! With sgd, a gradient of 1 moves a weight by the learning rate.

use stepbox_client::{Client, DeployOptions, ErrorCode, Schedule, ScheduleKind};
use stepbox_tests::{Options, TestServer};

use crate::{init, refused, round, tensor};

const LINEAR: Schedule = Schedule { warmup_rounds: 2, kind: ScheduleKind::Linear { rounds: 5, final_ratio: 0.0 } };

fn options(learning_rate: Option<f64>, schedule: Option<Schedule>) -> DeployOptions {
    DeployOptions { learning_rate, schedule, ..DeployOptions::default() }
}

async fn scene(name: &'static str, keys: &[&str]) -> (TestServer, Vec<Client>) {
    let server = TestServer::start(Options { schedulers: &["scheduler", "worker-1"], ..Options::new(name) });
    let workers = server.workers(0..2).await;
    for key in keys {
        init(&workers, key, &tensor(&[0.0])).await;
    }
    (server, workers)
}

/// Runs one round of a key. Returns the distance that the weight has moved.
async fn step(workers: &[Client], key: &str) -> f32 {
    let before = workers[0].pull(key).await.unwrap().values()[0];
    before - round(workers, key, &tensor(&[1.0])).await.unwrap().values()[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_schedule_gives_each_round_its_rate() {
    let (server, workers) = scene("scheduled", &["w"]).await;
    let deployment = server.deploy_with("sgd", "1.0.0", &options(Some(1.0), Some(LINEAR))).await.unwrap();
    assert_eq!((deployment.schedule.learning_rate, deployment.schedule.schedule), (1.0, LINEAR));
    let mut steps = Vec::new();
    for _ in 0..7 {
        steps.push(step(&workers, "w").await);
    }
    assert_eq!(steps, [0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_new_learning_rate_arrives_in_the_same_round_for_all_keys() {
    let (server, workers) = scene("live", &["ahead", "behind"]).await;
    server.deploy_with("sgd", "1.0.0", &options(Some(1.0), None)).await.unwrap();
    assert_eq!(step(&workers, "ahead").await, 1.0);
    assert_eq!(step(&workers, "ahead").await, 1.0);
    // Round 3 of one key is in progress when the rate is set; the other key is before its first round.
    workers[0].push("ahead", &tensor(&[1.0])).await.unwrap();
    let set = workers[1].set_learning_rate(0.25).await.unwrap();
    assert_eq!((set.learning_rate, set.from_round), (0.25, 4));
    let status = server.status().await;
    assert_eq!((status.learning_rate, status.pending_schedule), (Some(1.0), Some(set.clone())));

    workers[1].push("ahead", &tensor(&[1.0])).await.unwrap();
    assert_eq!(workers[0].pull("ahead").await.unwrap().values(), [-3.0]);
    assert_eq!(workers[1].pull("ahead").await.unwrap().values(), [-3.0]);
    assert_eq!(step(&workers, "ahead").await, 0.25);
    // A new key takes part from the same round on.
    init(&workers, "new", &tensor(&[0.0])).await;
    for key in ["behind", "new"] {
        for expected in [1.0, 1.0, 1.0, 0.25] {
            assert_eq!(step(&workers, key).await, expected, "{key}");
        }
    }
    let status = server.status().await;
    assert_eq!((status.learning_rate, status.schedule, status.pending_schedule), (Some(0.25), Some(set), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_schedule_that_is_set_starts_when_it_is_set_and_keeps_the_peak_unless_told() {
    let (server, workers) = scene("reset", &["w"]).await;
    server.deploy_with("sgd", "1.0.0", &options(Some(2.0), None)).await.unwrap();
    assert_eq!(step(&workers, "w").await, 2.0);
    let scheduler = server.client("scheduler").await;
    let set = scheduler.set_schedule(None, LINEAR).await.unwrap();
    assert_eq!((set.learning_rate, set.from_round), (2.0, 2));
    // Replaced before any gradient of that round, without ever having been used.
    let set = scheduler.set_schedule(Some(4.0), LINEAR).await.unwrap();
    assert_eq!((set.learning_rate, set.from_round), (4.0, 2));
    for expected in [2.0, 4.0, 3.0] {
        assert_eq!(step(&workers, "w").await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_new_version_goes_on_with_the_schedule_unless_it_brings_another() {
    let (server, workers) = scene("goes-on", &["w"]).await;
    let own = options(Some(1.0), Some(LINEAR));
    server.deploy_with("sgd", "1.0.0", &own).await.unwrap();
    for expected in [0.5, 1.0] {
        assert_eq!(step(&workers, "w").await, expected);
    }
    // A deployment without these options, then one with the same options again.
    for (version, options, expected) in [("1.0.1", options(None, None), 0.75), ("1.0.2", own, 0.5)] {
        let deployment = server.deploy_with("sgd", version, &options).await.unwrap();
        assert_eq!(deployment.schedule.from_round, 1, "{version}");
        assert_eq!(step(&workers, "w").await, expected, "{version}");
    }
    // A different schedule starts from the beginning, and a different optimizer with its default learning rate.
    let deployment = server.deploy_with("sgd", "1.0.3", &options(Some(4.0), Some(LINEAR))).await.unwrap();
    assert_eq!((deployment.from_round, deployment.schedule.from_round), (5, 5));
    assert_eq!(step(&workers, "w").await, 2.0);
    let deployment = server.deploy_with("lion", "1.0.0", &options(None, None)).await.unwrap();
    assert_eq!((deployment.schedule.from_round, deployment.schedule.schedule), (6, Schedule::default()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_may_not_and_what_cannot_be_is_refused_and_changes_nothing() {
    let (server, workers) = scene("unset", &["w"]).await;
    let scheduler = server.client("scheduler").await;
    let (code, message) = refused(scheduler.set_learning_rate(0.5).await);
    assert_eq!(code, ErrorCode::NoOptimizer);
    assert!(message.contains("stepbox deploy"), "{message}");
    server.deploy_with("sgd", "1.0.0", &options(Some(1.0), None)).await.unwrap();

    for role in ["operator", "worker-0"] {
        let (code, message) = refused(server.client(role).await.set_learning_rate(0.5).await);
        assert_eq!(code, ErrorCode::Forbidden, "{role}");
        assert!(message.contains("schedulers"), "{message}");
    }
    let endless = Schedule { warmup_rounds: 9, kind: ScheduleKind::Cosine { rounds: 8, final_ratio: 0.0 } };
    for (peak, schedule, expected) in [
        (Some(-0.5), Schedule::default(), "learning_rate = -0.5 is out of range: [0, "),
        (Some(f64::NAN), LINEAR, "learning_rate = NaN is out of range"),
        (None, endless, "rounds = 8 cannot be"),
    ] {
        let (code, message) = refused(scheduler.set_schedule(peak, schedule).await);
        assert_eq!(code, ErrorCode::Hyperparameter);
        assert!(message.contains(expected), "{message}");
        let deployment = server.deploy_with("sgd", "1.1.0", &options(peak, Some(schedule))).await;
        assert_eq!(refused(deployment).0, ErrorCode::Hyperparameter);
    }
    scheduler.status(false).await.expect("a scheduler may read the status");
    server.client("deployer").await.set_learning_rate(0.5).await.expect("a deployer may set the rate");
    assert_eq!(step(&workers, "w").await, 0.5);
    let status = server.status().await;
    assert_eq!((status.optimizer.unwrap().version, status.refusals), ("1.0.0".to_owned(), 9));
}
