//! A worker process that a test kills: it trains for some rounds, reports that, and then waits in the middle of the
//! next round.
//!
//! Arguments: server, authority, certificate, key, rounds. Prints `waiting` when the rounds of all keys are complete
//! and half of the keys have been pushed for the next round.

#![forbid(unsafe_code)]

use stepbox_client::{Client, ClientConfig, ClientError, Tensor};

/// Keys that this worker and the tests train.
const KEYS: [&str; 2] = ["first", "second"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ClientError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, authority, certificate, key, rounds] = arguments.as_slice() else {
        panic!("five arguments are needed, see the source");
    };
    let client = Client::connect(&ClientConfig::new(server, authority, certificate, key)).await?;
    client.register().await?;
    let gradient = Tensor::new([1000], vec![1.0; 1000])?;
    for name in KEYS {
        client.init(name, &gradient).await?;
    }
    for _ in 0..rounds.parse::<u64>().expect("a number of rounds") {
        for name in KEYS {
            client.push_pull(name, &gradient).await?;
        }
    }
    client.push(KEYS[0], &gradient).await?;
    println!("waiting");
    std::future::pending().await
}
