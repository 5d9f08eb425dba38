//! Groups: tensors with separate settings, selected by their keys, axes and tags.

use stepbox_client::{DeployOptions, ErrorCode, Group, Tensor, TensorFilter};
use stepbox_tests::{Options, TestServer};

use crate::{init, refused, round, tensor};

fn group(name: &str, tensors: TensorFilter, hyperparameters: &[(&str, &str)]) -> Group {
    Group { name: name.into(), tensors, hyperparameters: values(hyperparameters), learning_rate_multiplier: 1.0 }
}

fn values(given: &[(&str, &str)]) -> Vec<(String, String)> {
    given.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn keys(patterns: &[&str]) -> TensorFilter {
    TensorFilter { keys: patterns.iter().map(|pattern| (*pattern).into()).collect(), ..TensorFilter::default() }
}

fn matrix(value: f32) -> Tensor {
    Tensor::new([2, 2], vec![value; 4]).unwrap()
}

/// With gradients of zero, only the decay moves a weight, by learning rate × weight decay.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn biases_and_norms_do_not_decay_where_a_group_says_so() {
    let server = TestServer::start(Options { shard_threads: 2, ..Options::new("no-decay") });
    let workers = server.workers(0..2).await;
    init(&workers, "layer.weight", &matrix(1.0)).await;
    init(&workers, "layer.bias", &tensor(&[1.0; 2])).await;
    let small = TensorFilter { maximum_axes: Some(1), ..TensorFilter::default() };
    let options = DeployOptions {
        learning_rate: Some(0.5),
        hyperparameters: values(&[("weight_decay", "0.5")]),
        groups: vec![group("no-decay", small, &[("weight_decay", "0")])],
        ..DeployOptions::default()
    };
    let deployment = server.deploy_with("adamw", "1.0.0", &options).await.unwrap();
    assert_eq!(deployment.groups, [("no-decay".to_owned(), 1)]);
    // A key that is created after the deployment is assigned to its group too.
    init(&workers, "layer.norm", &tensor(&[1.0; 2])).await;

    assert_eq!(round(&workers, "layer.weight", &matrix(0.0)).await.unwrap().values(), [0.75; 4]);
    for key in ["layer.bias", "layer.norm"] {
        assert_eq!(round(&workers, key, &tensor(&[0.0; 2])).await.unwrap().values(), [1.0; 2], "{key}");
    }
    let groups: Vec<_> = server.status().await.keys.into_iter().map(|key| (key.key, key.group)).collect();
    let expected = [("layer.bias", "no-decay"), ("layer.norm", "no-decay"), ("layer.weight", "")];
    assert_eq!(groups, expected.map(|(key, group)| (key.to_owned(), group.to_owned())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_first_group_that_takes_a_tensor_counts() {
    let server = TestServer::start(Options::new("first-match"));
    let workers = server.workers(0..2).await;
    let one = tensor(&[1.0]);
    let zero = tensor(&[0.0]);
    let (first, second) = tokio::join!(
        workers[0].init_tagged("tagged", &zero, &["slow", "large"]),
        workers[1].init_tagged("tagged", &zero, &[])
    );
    assert!(first.unwrap().created && !second.unwrap().created);
    for key in ["head.a", "body.a", "body.b", "rest"] {
        init(&workers, key, &tensor(&[0.0])).await;
    }
    let rate = |multiplier, group| Group { learning_rate_multiplier: multiplier, ..group };
    let tagged = TensorFilter { tags: vec!["slow".into()], ..TensorFilter::default() };
    let options = DeployOptions {
        learning_rate: Some(1.0),
        groups: vec![
            rate(0.25, group("slow", tagged, &[])),
            rate(2.0, group("a", keys(&["head.?", "body.a"]), &[])),
            rate(4.0, group("body", keys(&["body.*"]), &[])),
        ],
        ..DeployOptions::default()
    };
    server.deploy_with("sgd", "1.0.0", &options).await.unwrap();
    for (key, step) in [("tagged", 0.25), ("head.a", 2.0), ("body.a", 2.0), ("body.b", 4.0), ("rest", 1.0)] {
        assert_eq!(round(&workers, key, &one).await.unwrap().values(), [-step], "{key}");
    }
}

/// State is retained when a key changes its group, because groups are settings.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deployment_with_other_groups_keeps_the_state() {
    let server = TestServer::start(Options::new("regrouped"));
    let workers = server.workers(0..2).await;
    init(&workers, "w", &tensor(&[0.0])).await;
    let options = |group: Option<Group>| DeployOptions {
        learning_rate: Some(1.0),
        hyperparameters: values(&[("momentum", "0.5")]),
        groups: group.into_iter().collect(),
        ..DeployOptions::default()
    };
    server.deploy_with("sgd", "1.0.0", &options(None)).await.unwrap();
    assert_eq!(round(&workers, "w", &tensor(&[1.0])).await.unwrap().values(), [-1.0]);
    let group = Group { learning_rate_multiplier: 2.0, ..group("fast", keys(&["*"]), &[]) };
    let deployment = server.deploy_with("sgd", "1.0.0", &options(Some(group))).await.unwrap();
    assert!(deployment.state_kept);
    assert_eq!(
        round(&workers, "w", &tensor(&[0.0])).await.unwrap().values(),
        [-2.0],
        "half the velocity, twice the rate"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn groups_that_cannot_be_meant_are_refused_and_named() {
    let server = TestServer::start(Options::new("no-groups"));
    let any = || keys(&["*"]);
    let multiplied = |multiplier| Group { learning_rate_multiplier: multiplier, ..group("scaled", any(), &[]) };
    for (groups, expected) in [
        (vec![group("g", any(), &[("weight_decay", "-1")])], "group g: weight_decay = -1 is out of range"),
        (vec![group("g", any(), &[("decay", "1")])], "group g: adamw has no hyperparameter decay"),
        (vec![group("g", any(), &[("beta1", "0.5"), ("beta1", "0.6")])], "beta1 is given twice"),
        (vec![group("g", keys(&[""]), &[])], "is no pattern"),
        (vec![group("g", TensorFilter::default(), &[])], "group g does not say which tensors it takes"),
        (vec![group("g", any(), &[]), group("g", any(), &[])], "group g is there twice"),
        (vec![group("", any(), &[])], "a group's name"),
        (vec![multiplied(-1.0)], "learning_rate_multiplier = -1"),
        (vec![multiplied(f64::INFINITY)], "learning_rate_multiplier = inf"),
    ] {
        let options = DeployOptions { groups, ..DeployOptions::default() };
        let (code, message) = refused(server.deploy_with("adamw", "1.0.0", &options).await);
        assert_eq!(code, ErrorCode::Hyperparameter, "{message}");
        assert!(message.contains(expected), "{message}");
    }
    assert!(server.status().await.optimizer.is_none());
}
