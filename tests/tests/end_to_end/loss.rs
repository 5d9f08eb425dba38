//! The loss: optional, and passed on as the mean over the workers that reported it.

use stepbox_client::ErrorCode;
use stepbox_tests::{Options, TestServer};

use crate::{init, refused, tensor};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_optimizer_is_told_the_mean_of_the_losses_that_were_reported() {
    let server = TestServer::start(Options { workers: 3, ..Options::new("loss") });
    server.deploy("hostile/loss-probe", "1.0.0", &[]).await;
    let workers = server.workers(0..3).await;
    init(&workers, "w", &tensor(&[0.0])).await;
    let zero = tensor(&[0.0]);
    let mut expected = 0.0;
    for (losses, mean) in
        [([Some(1.0), None, Some(2.0)], 1.5), ([None; 3], 0.0), ([Some(0.25), Some(0.5), Some(0.75)], 0.5)]
    {
        for (worker, loss) in workers.iter().zip(losses) {
            match loss {
                Some(loss) => worker.push("w", zero.with_loss(loss)).await.unwrap(),
                None => worker.push("w", &zero).await.unwrap(),
            };
        }
        expected += mean;
        for worker in &workers {
            assert_eq!(worker.pull("w").await.unwrap().values(), [expected]);
        }
    }
    for loss in [f32::NAN, f32::INFINITY] {
        let (code, message) = refused(workers[0].push("w", zero.with_loss(loss)).await);
        assert_eq!(code, ErrorCode::NotFinite);
        assert!(message.contains("the loss"), "{message}");
    }
    workers[0].push("w", zero.with_loss(1.0)).await.expect("the refused pushes do not count");
}
