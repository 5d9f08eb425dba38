//! The handwritten digits of `tests/data/digits`, whose README names source and licence.

use std::io::{self, BufRead, BufReader};

use flate2::bufread::GzDecoder;
use thiserror::Error;

/// Pixels of an image: 8 × 8.
pub const PIXELS: usize = 64;

/// Kinds of digit.
pub const CLASSES: usize = 10;

/// The ink of a pixel that is full.
const FULL_INK: u8 = 16;

/// Every how many-th image is held out.
const HELD_OUT_EVERY: usize = 5;

static COMPRESSED: &[u8] = include_bytes!("../../tests/data/digits/digits.csv.gz");

/// The data set is not what it should be.
#[derive(Debug, Error)]
pub enum DatasetError {
    /// It does not decompress.
    #[error("the digits cannot be decompressed: {0}")]
    Read(#[from] io::Error),
    /// A line is no image and its digit.
    #[error("line {line} of the digits is not 64 numbers from 0 to 16 and a digit")]
    Line {
        /// Which, from 1.
        line: usize,
    },
}

/// Images and the digits they show.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Examples {
    pixels: Vec<[f32; PIXELS]>,
    labels: Vec<u8>,
}

impl Examples {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The example at this place: its pixels, from 0 for paper to 1 for ink, and its digit.
    pub fn at(&self, index: usize) -> (&[f32; PIXELS], u8) {
        (&self.pixels[index], self.labels[index])
    }

    /// All examples, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[f32; PIXELS], u8)> {
        self.pixels.iter().zip(self.labels.iter().copied())
    }

    /// The part of the worker of this rank: every `workers`-th example.
    pub fn shard(&self, rank: usize, workers: usize) -> Self {
        let indices = (rank..self.len()).step_by(workers);
        indices.fold(Self::default(), |mut shard, index| {
            let (pixels, label) = self.at(index);
            shard.add(*pixels, label);
            shard
        })
    }

    fn add(&mut self, pixels: [f32; PIXELS], label: u8) {
        self.pixels.push(pixels);
        self.labels.push(label);
    }
}

/// The data set, split: every fifth image, from the fifth on, is held out.
#[derive(Debug, Clone, PartialEq)]
pub struct Digits {
    /// What is learnt from.
    pub training: Examples,
    /// What is never learnt from, to see what was learnt.
    pub held_out: Examples,
}

impl Digits {
    /// Reads the data set, which is part of the program.
    pub fn load() -> Result<Self, DatasetError> {
        Self::read(BufReader::new(GzDecoder::new(COMPRESSED)))
    }

    fn read(lines: impl BufRead) -> Result<Self, DatasetError> {
        let mut digits = Self { training: Examples::default(), held_out: Examples::default() };
        for (index, line) in lines.lines().enumerate() {
            let (pixels, label) = parse(&line?).ok_or(DatasetError::Line { line: index + 1 })?;
            let held_out = index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1;
            let part = if held_out { &mut digits.held_out } else { &mut digits.training };
            part.add(pixels, label);
        }
        Ok(digits)
    }
}

fn parse(line: &str) -> Option<([f32; PIXELS], u8)> {
    let mut fields = line.split(',');
    let mut pixels = [0.0; PIXELS];
    for pixel in &mut pixels {
        let ink: u8 = fields.next()?.parse().ok().filter(|ink| *ink <= FULL_INK)?;
        *pixel = f32::from(ink) / f32::from(FULL_INK);
    }
    let label = fields.next()?.parse().ok().filter(|label| usize::from(*label) < CLASSES)?;
    fields.next().is_none().then_some((pixels, label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_images_are_there_and_split() {
        let digits = Digits::load().unwrap();
        assert_eq!((digits.training.len(), digits.held_out.len()), (1438, 359));
        // The first line of the file, and the fifth.
        let (pixels, label) = digits.training.at(0);
        assert_eq!((pixels[..6].to_vec(), label), (vec![0.0, 0.0, 5.0 / 16.0, 13.0 / 16.0, 9.0 / 16.0, 1.0 / 16.0], 0));
        assert_eq!(digits.held_out.at(0).1, 4);
        for class in 0..10 {
            let count = digits.held_out.iter().filter(|(_, label)| *label == class).count();
            assert!(count >= 20, "{count} images of {class} are held out");
        }
    }

    #[test]
    fn shards_share_the_examples_out() {
        let training = Digits::load().unwrap().training;
        let shards: Vec<Examples> = (0..4).map(|rank| training.shard(rank, 4)).collect();
        assert_eq!(shards.iter().map(Examples::len).collect::<Vec<_>>(), [360, 360, 359, 359]);
        for index in 0..training.len() {
            assert_eq!(training.at(index), shards[index % 4].at(index / 4));
        }
        assert_eq!(training.shard(0, 1), training);
    }

    #[test]
    fn lines_that_are_no_images_are_named() {
        let good = format!("{}3", "16,".repeat(64));
        let bad = ["", "1,2,3", &"0,".repeat(65), &format!("{}10", "0,".repeat(64)), &format!("{}3", "17,".repeat(64))];
        for bad in bad.map(String::from).into_iter().chain([format!("{good},0")]) {
            let error = Digits::read(format!("{good}\n{bad}\n").as_bytes()).unwrap_err();
            assert!(matches!(error, DatasetError::Line { line: 2 }), "{bad}: {error}");
        }
    }
}
