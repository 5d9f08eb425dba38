//! The worker process of Stepbox's side.

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use stepbox_client::{Client, ClientConfig, Tensor};

use crate::work::{Event, pattern, scale};

const KEY: &str = "weights";

/// Arguments of a worker.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Address of the server
    #[arg(long, value_name = "HOST:PORT")]
    server: String,

    /// Certificate of the authority (PEM)
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,

    /// This worker's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,

    /// This worker's private key (PEM)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// Elements of the one tensor
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    parameters: u32,

    /// Rounds until the worker ends
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,

    /// Where the worker of rank 0 writes the last weights, as little-endian f32
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
}

/// Trains, a round for each line on standard input.
///
/// # Errors
/// The server refuses or is lost, or the driver is gone.
pub async fn run(options: &Options) -> Result<()> {
    let config = ClientConfig::new(&options.server, &options.ca, &options.certificate, &options.key);
    let client = Client::connect(&config).await?;
    let rank = client.register().await?.rank;
    let first = pattern(options.parameters as usize);
    client.init(KEY, &Tensor::new([u64::from(options.parameters)], first.clone())?).await?;
    let mut gradient = Tensor::new([u64::from(options.parameters)], first.clone())?;
    let mut weights = None;
    for round in 1..=options.rounds {
        let factor = scale(rank, round);
        gradient.values_mut().iter_mut().zip(&first).for_each(|(gradient, first)| *gradient = first * factor);
        Event::Ready.print()?;
        // Nothing is under way, so nothing waits while this thread does.
        let told = io::stdin().lock().read_line(&mut String::new())?;
        anyhow::ensure!(told > 0, "nobody is there to start the round");
        let since = Instant::now();
        weights = Some(client.push_pull(KEY, &gradient).await?);
        let nanoseconds = since.elapsed().as_nanos() as u64;
        Event::Done { nanoseconds }.print()?;
    }
    if let (0, Some(weights)) = (rank, &weights) {
        write(&options.weights, weights.values()).with_context(|| options.weights.display().to_string())?;
    }
    Event::Finished.print()?;
    client.leave().await?;
    client.close().await;
    Ok(())
}

fn write(path: &Path, values: &[f32]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for value in values {
        file.write_all(&value.to_le_bytes())?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        options: Options,
    }

    fn parse(more: &[&str]) -> Result<Options, clap::Error> {
        let always = ["worker", "--server", "127.0.0.1:1", "--ca", "a", "--certificate", "b", "--key", "c"];
        Program::try_parse_from([&always, more].concat()).map(|program| program.options)
    }

    #[test]
    fn a_worker_must_know_how_much_it_has_to_do() {
        let options = parse(&["--parameters", "10000", "--rounds", "3", "--weights", "w"]).unwrap();
        assert_eq!((options.parameters, options.rounds), (10_000, 3));
        assert!(parse(&["--parameters", "10000", "--weights", "w"]).is_err(), "no rounds");
        assert!(parse(&["--parameters", "0", "--rounds", "3", "--weights", "w"]).is_err(), "nothing to train");
    }

    #[test]
    fn weights_are_written_as_little_endian() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        write(&path, &[1.0, -2.5]).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), [1.0_f32.to_le_bytes(), (-2.5_f32).to_le_bytes()].concat());
    }
}
