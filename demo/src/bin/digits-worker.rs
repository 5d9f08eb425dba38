//! One worker that trains the digits network through a Stepbox server.
//!
//! It takes the shard of the data that its rank names, and in each round pushes the gradient of a batch and pulls the
//! new weights. Standard output is JSON lines, see [`Event`]; errors go to standard error.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use stepbox_client::{Client, ClientConfig, ClientError, Tensor};
use stepbox_demo::dataset::Digits;
use stepbox_demo::digest::weights_digest;
use stepbox_demo::mlp::{KEYS, Parameters};
use stepbox_demo::report::Event;
use stepbox_demo::training::{BATCH, ROUNDS, batch};

/// One worker that trains a network to read handwritten digits through a Stepbox server.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
The certificate's name must be one of the server's workers; its place in that list is the worker's rank, and says which
part of the data it takes.

Example:
  digits-worker --server 127.0.0.1:7437 --ca ca.pem --certificate worker-0.pem --key worker-0.key"
)]
struct Options {
    /// Address of the server
    #[arg(long, value_name = "HOST:PORT")]
    server: String,

    /// The name in the server's certificate, where it is not the host
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,

    /// Certificate of the authority (PEM)
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,

    /// This worker's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,

    /// This worker's private key (PEM)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// Rounds to train up to; a worker that joins a model with rounds behind it goes on from there
    #[arg(long, default_value_t = ROUNDS)]
    rounds: u64,

    /// Images in each round's batch
    #[arg(long, default_value_t = BATCH, value_parser = batch_size)]
    batch: usize,
}

fn batch_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size @ 1..=100_000) => Ok(size),
        _ => Err("a batch has 1 to 100000 images".to_owned()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit code tells all the same.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    let digits = Digits::load()?;
    let mut config = ClientConfig::new(&options.server, &options.ca, &options.certificate, &options.key);
    config.server_name.clone_from(&options.server_name);
    let client = Client::connect(&config).await?;
    let registration = client.register().await?;
    let (rank, workers) = (registration.rank, registration.workers);
    print(&Event::Registered { rank, workers })?;

    let shard = digits.training.shard(rank as usize, workers as usize);
    anyhow::ensure!(!shard.is_empty(), "with {workers} workers no image is left for rank {rank}; take fewer workers");

    let done = initialize(&client).await.context("the model cannot be set up")?;
    let first = done.iter().min().map_or(1, |done| done + 1);
    let started = Instant::now();
    let mut weights = pull(&client).await?;
    for round in first..=options.rounds {
        let indices = batch(rank, round, options.batch, shard.len());
        let (loss, gradient) = weights.loss_and_gradient(&shard, &indices);
        weights = exchange(&client, round, &done, gradient).await.with_context(|| format!("round {round} failed"))?;
        if Event::tells_of(round, options.rounds) {
            print(&Event::Round { round, loss })?;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    print(&Event::Finished {
        rank,
        round: options.rounds.max(first - 1),
        accuracy: weights.accuracy(&digits.held_out),
        weights_sha256: weights_digest(&weights),
        seconds,
    })?;
    client.leave().await?;
    client.close().await;
    Ok(())
}

/// Offers the first value of every tensor; returns how many rounds each has behind it.
async fn initialize(client: &Client) -> Result<[u64; KEYS.len()], ClientError> {
    let mut done = [0; KEYS.len()];
    for ((key, values), done) in KEYS.iter().zip(Parameters::initial().0).zip(&mut done) {
        *done = client.init(key.name, &Tensor::new(key.shape, values)?).await?.version;
    }
    Ok(done)
}

async fn pull(client: &Client) -> Result<Parameters, ClientError> {
    let [a, b, c, d] = KEYS.map(|key| client.pull(key.name));
    let (a, b, c, d) = tokio::try_join!(a, b, c, d)?;
    Ok(Parameters([a, b, c, d].map(Tensor::into_values)))
}

/// Pushes all tensors' gradients at once and waits for all tensors' new weights. A tensor that had this round behind it
/// when this worker came, because its predecessor died in the middle of the round, is only pulled.
async fn exchange(
    client: &Client,
    round: u64,
    done: &[u64; KEYS.len()],
    gradient: Parameters,
) -> Result<Parameters, ClientError> {
    let [a, b, c, d] = gradient.0;
    let exchange = async |index: usize, values| {
        let key = KEYS[index];
        if round <= done[index] {
            client.pull(key.name).await
        } else {
            client.push_pull(key.name, &Tensor::new(key.shape, values)?).await
        }
    };
    let (a, b, c, d) = tokio::try_join!(exchange(0, a), exchange(1, b), exchange(2, c), exchange(3, d))?;
    Ok(Parameters([a, b, c, d].map(Tensor::into_values)))
}

/// Prints a line, at once, for whoever watches.
fn print(event: &Event) -> Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, event)?;
    writeln!(stdout)?;
    Ok(stdout.flush()?)
}
