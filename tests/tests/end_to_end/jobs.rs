//! Several jobs on one server: events in one job are invisible in the others.

use stepbox_client::{Client, ClientConfig, DEFAULT_JOB, DeployOptions, ErrorCode, Tensor};
use stepbox_tests::{Options, RawPeer, TestServer, in_time, logged};
use stepbox_wire::{ElementType, PROTOCOL_VERSION, Request, Response, TensorType, encode_request};

use crate::{bits, init, refused, round, tensor};

/// Two jobs in addition to the default job of every test server: `blue` and `red`, with two workers each, which have
/// the same identities in both.
fn two_more(limits: &str) -> &'static str {
    // Leaked, because the options require a `'static` string.
    Box::leak(
        ["blue", "red"]
            .map(|job| {
                format!(
                    "[jobs.{job}]\nworkers = ['jobs-worker-0', 'jobs-worker-1']\nshard_threads = 1\n{}\n\
                     [jobs.{job}.access]\npublishers = ['jobs-{job}-deployer']\ndeployers = ['jobs-{job}-deployer']\noperators = ['jobs-{job}-deployer']\n",
                    if job == "blue" { limits } else { "" }
                )
            })
            .concat()
            .into_boxed_str(),
    )
}

/// A client configuration that reaches a job of the server.
fn reach(server: &TestServer, job: &str, role: &str) -> ClientConfig {
    ClientConfig { job: job.into(), ..server.reach(&server.credentials(role)) }
}

async fn client(server: &TestServer, job: &str, role: &str) -> Client {
    Client::connect(&reach(server, job, role)).await.unwrap()
}

async fn workers(server: &TestServer, job: &str) -> Vec<Client> {
    let mut workers = Vec::new();
    for rank in 0..2 {
        let worker = client(server, job, &format!("worker-{rank}")).await;
        worker.register().await.unwrap();
        workers.push(worker);
    }
    workers
}

async fn deploy(server: &TestServer, job: &str, optimizer: &str) {
    let options = DeployOptions { learning_rate: Some(0.01), ..DeployOptions::default() };
    let deployer = client(server, job, &format!("{job}-deployer")).await;
    deployer.deploy(server.publisher.sign(optimizer, "1.0.0"), &options).await.unwrap();
}

fn gradient(number: u64, length: u64) -> Tensor {
    tensor(&(0..length).map(|index| ((index * 7 + number * 13) % 31) as f32 / 31.0 - 0.4).collect::<Vec<_>>())
}

const ROUNDS: u64 = 8;

/// Trains a job's keys from the start. Returns the digest of the weights.
async fn train(workers: &[Client], status: &Client) -> String {
    for key in ["w", "b"] {
        init(workers, key, &gradient(0, 300)).await;
    }
    for number in 1..=ROUNDS {
        for key in ["w", "b"] {
            round(workers, key, &gradient(number, 300)).await.unwrap();
        }
    }
    status.status(true).await.unwrap().weights_digest.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_with_the_same_keys_train_side_by_side_as_if_alone() {
    in_time(async {
        let jobs = [("blue", "adamw"), ("red", "lion")];
        let server = TestServer::start(Options { more: two_more(""), ..Options::new("jobs") });
        let mut together = Vec::new();
        for (job, optimizer) in jobs {
            deploy(&server, job, optimizer).await;
            together.push((workers(&server, job).await, client(&server, job, &format!("{job}-deployer")).await));
        }
        let [(blue, blue_status), (red, red_status)] = &together[..] else { unreachable!() };
        let (blue, red) = tokio::join!(train(blue, blue_status), train(red, red_status));
        assert_ne!(blue, red, "the optimizers differ");

        for ((job, optimizer), digest) in jobs.into_iter().zip([blue, red]) {
            let alone = TestServer::start(Options { more: two_more(""), ..Options::new("jobs") });
            deploy(&alone, job, optimizer).await;
            let status = client(&alone, job, &format!("{job}-deployer")).await;
            assert_eq!(train(&workers(&alone, job).await, &status).await, digest, "{job} has the same result as alone");
        }

        let status = red_status.status(false).await.unwrap();
        assert_eq!((status.job.as_str(), status.optimizer.unwrap().name.as_str()), ("red", "lion"));
        assert_eq!(status.updates, 2 * ROUNDS);
        let untouched = server.status().await;
        assert_eq!((untouched.job.as_str(), untouched.updates, untouched.keys.len()), (DEFAULT_JOB, 0, 0));
        assert_eq!(untouched.optimizer, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nobody_learns_which_jobs_there_are_without_a_part_in_them() {
    let server = TestServer::start(Options { more: two_more(""), ..Options::new("jobs") });
    let mut answers = Vec::new();
    for job in ["blue", "grey"] {
        let refused = Client::connect(&reach(&server, job, "red-deployer"))
            .await
            .expect_err("the identity has no part in the job");
        assert_eq!(refused.code(), Some(ErrorCode::Forbidden));
        answers.push(refused.to_string().replace(job, "…"));
    }
    assert_eq!(answers[0], answers[1], "the same whether or not the job exists");
    logged(&["WARN", "jobs-red-deployer", "refused", "forbidden", "grey"]);

    // Rights in one job do not apply in another.
    let blue = client(&server, "blue", "blue-deployer").await;
    assert_eq!(blue.status(false).await.unwrap().refusals, 1, "the job's status shows the refusal");
    let elsewhere = Client::connect(&reach(&server, "red", "blue-deployer")).await.expect_err("another job's deployer");
    assert_eq!(elsewhere.code(), Some(ErrorCode::Forbidden));
    // A peer that names no job connects to the default job, in which this identity has no part either.
    let unnamed = Client::connect(&reach(&server, "", "blue-deployer"))
        .await
        .expect_err("the identity has no part in the default job");
    assert!(unnamed.to_string().contains("`default`"), "{unnamed}");

    for name in ["Blue", "../blue", "blue\0", &"b".repeat(33)] {
        let mut peer = RawPeer::connect(&server, Some(&server.credentials("blue-deployer"))).await.unwrap();
        peer.ask(1, &Request::Hello { protocol: PROTOCOL_VERSION, job: name.into() }, &[]).await;
        assert_eq!(peer.refusal().await.1.code, ErrorCode::InvalidName, "{name:?}");
        assert!(peer.receive().await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_goes_wrong_in_one_job_stays_there() {
    in_time(async {
        let limits = "limits = { keys = 2, model_bytes = 2000, connections = 4 }";
        let server = TestServer::start(Options { more: two_more(limits), ..Options::new("jobs") });
        for job in ["blue", "red"] {
            deploy(&server, job, "sgd").await;
        }
        let (blue, red) = (workers(&server, "blue").await, workers(&server, "red").await);
        init(&red, "w", &tensor(&[1.0, 2.0])).await;

        // Another tensor of the same name, up to the limit of keys.
        init(&blue, "w", &gradient(0, 300)).await;
        init(&blue, "v", &tensor(&[0.0])).await;
        let (code, message) = refused(blue[0].init("u", &tensor(&[0.0])).await);
        assert_eq!(code, ErrorCode::Busy);
        assert!(message.contains("limits.keys"), "{message}");
        let _rest = [client(&server, "blue", "worker-0").await, client(&server, "blue", "worker-1").await];
        let full = Client::connect(&reach(&server, "blue", "blue-deployer")).await.expect_err("four connections exist");
        assert_eq!(full.code(), Some(ErrorCode::Busy));
        assert!(full.to_string().contains("jobs.blue.limits.connections"), "{full}");

        // Half a round that never completes, and workers that leave during it.
        blue[0].push("w", &gradient(1, 300)).await.unwrap();
        for worker in &blue {
            worker.leave().await.unwrap();
        }

        for name in ["a", "b", "c"] {
            init(&red, name, &gradient(0, 300)).await;
        }
        let pulled = round(&red, "w", &tensor(&[1.0, 1.0])).await.unwrap();
        assert_eq!(bits(&pulled), bits(&tensor(&[0.99, 1.99])));
        let status = client(&server, "red", "red-deployer").await.status(false).await.unwrap();
        assert_eq!((status.refusals, status.keys.len(), status.updates), (0, 4, 1));
        assert!(status.workers.iter().all(|worker| worker.connected), "only workers of the other job have left");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bytes_on_their_way_in_one_job_take_no_room_of_another() {
    const ELEMENTS: u64 = 4096;
    in_time(async {
        // A third for each job, which is one body of the tensor.
        let more = format!("{}\n[limits]\nreceiving_bytes = 49152\nframe_seconds = 60", two_more(""));
        let server = TestServer::start(Options { more: more.leak(), ..Options::new("jobs") });
        deploy(&server, "blue", "sgd").await;
        deploy(&server, "red", "sgd").await;
        let (blue, red) = (workers(&server, "blue").await, workers(&server, "red").await);
        for workers in [&blue, &red] {
            init(workers, "w", &gradient(0, ELEMENTS)).await;
        }
        // A worker takes all of blue's space, and then sends slowly.
        let mut dribbles = RawPeer::connect(&server, Some(&server.credentials("worker-1"))).await.unwrap();
        let hello = Request::Hello { protocol: PROTOCOL_VERSION, job: "blue".into() };
        for (id, request) in [(1, hello), (2, Request::Register)] {
            dribbles.ask(id, &request, &[]).await;
            dribbles.receive().await.unwrap();
        }
        let tensor = TensorType { element: ElementType::F32, shape: vec![ELEMENTS] };
        let push = Request::Push { key: "w".into(), round: 1, tensor, loss: None };
        dribbles.send(&encode_request(3, &push, 4 * ELEMENTS)).await.unwrap();
        dribbles.send(&[0; 100]).await.unwrap();
        // The server reads that request at some time during these rounds.
        for number in 1..=20 {
            round(&red, "w", &gradient(number, ELEMENTS)).await.unwrap();
        }
        dribbles.send(&vec![0; 4 * ELEMENTS as usize - 100]).await.unwrap();
        assert_eq!(dribbles.receive().await, Some((3, Response::Pushed { repeated: false })));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_job_has_a_ledger_of_its_own() {
    let mut server = TestServer::start(Options { more: two_more(""), ..Options::new("jobs") });
    let deployed = async |server: &TestServer, job: &str, version: &str| {
        let deployer = client(server, job, &format!("{job}-deployer")).await;
        deployer.deploy(server.publisher.sign("sgd", version), &DeployOptions::default()).await
    };
    deployed(&server, "blue", "2.0.0").await.unwrap();
    server.restart();
    assert_eq!(refused(deployed(&server, "blue", "1.0.0").await).0, ErrorCode::Untrusted);
    deployed(&server, "red", "1.0.0").await.unwrap();
}
