//! Slots of all types and extents, and evaluation weights.

use stepbox_guest::prelude::*;
use stepbox_guest::quantise;

hyperparameters! {
    /// Adam's moments, stored in 8, 16 or 32 bits.
    struct Moments {
        /// Bits per element: 32, 16 or 8.
        bits: i64 = 32 in 8..=32,
    }
}

impl Elementwise for Moments {
    const NAME: &'static str = "moments";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 2];
    type Round = f32;

    fn slots(&self) -> [Slot; 2] {
        let (mean, variance) = (Slot::zero("mean"), Slot::zero("variance"));
        match self.bits {
            8 => [mean.quantised(Code::Signed), variance.quantised(Code::Unsigned)],
            16 => [mean.bf16(), variance.bf16()],
            _ => [mean, variance],
        }
    }

    fn begin(&self, _: &Tensor, context: &Context) -> f32 {
        context.learning_rate
    }

    fn update(rate: &f32, parameter: f32, gradient: f32, [mean, variance]: [f32; 2]) -> (f32, [f32; 2]) {
        let mean = 0.9 * mean + 0.1 * gradient;
        let variance = 0.9 * variance + 0.1 * gradient * gradient;
        (parameter - rate * mean / (variance.sqrt() + 1e-3), [mean, variance])
    }
}

fn wave(elements: usize, factor: f32) -> Vec<f32> {
    (0..elements).map(|index| (index as f32 * factor).sin()).collect()
}

fn trained(bits: i64, elements: usize, cut: usize) -> Native<Moments> {
    let mut training = Native::new(Moments { bits }, wave(elements, 0.37)).cut(cut, cut);
    for round in 1..=5 {
        training.round(0.01, &wave(elements, 0.7 + 0.1 * round as f32));
    }
    training
}

#[test]
fn state_in_fewer_bits_stays_close_and_cuts_change_no_bit() {
    let elements = 3 * 4096 + 777;
    let exact = trained(32, elements, 1 << 20);
    for (bits, tolerance) in [(16, 0.001), (8, 0.03)] {
        let whole = trained(bits, elements, 1 << 20);
        let distance = |(a, b): (&f32, &f32)| (a - b).abs();
        let most = exact.parameters().iter().zip(whole.parameters()).map(distance).fold(0.0, f32::max);
        assert!(most > 0.0 && most < tolerance, "{bits} bits are off by {most}");
        let cut = trained(bits, elements, 4096);
        assert_eq!(whole.parameters(), cut.parameters());
        assert_eq!(whole.slot_bytes("variance"), cut.slot_bytes("variance"));
    }
}

#[test]
fn quantised_slots_are_codes_and_a_scale_for_each_run() {
    let training = trained(8, 1000, 4096);
    let (codes, scales) = (training.slot_of::<u8>("mean").unwrap(), training.slot("mean_scale").unwrap());
    assert_eq!((codes.len(), scales.len()), (1000, 4));
    let mut mean = vec![0.0; 1000];
    quantise::decode(Code::Signed, codes, scales, &mut mean);
    let exact = trained(32, 1000, 4096);
    let most = mean.iter().zip(exact.slot("mean").unwrap()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(most < 0.03, "{most}");
    assert_eq!(training.slot_of::<u16>("mean"), None);
    assert_eq!(trained(16, 1000, 4096).slot_bytes("mean").unwrap().len(), 2000);
}

hyperparameters! {
    /// Slots of every type, incremented in every round.
    struct Counting {}
}

const START: Slot = Slot::parameter("start");
const PRECISE: Slot = Slot::constant("precise", 0.1).of_type(ElementType::F64);
const BYTES: Slot = Slot::constant("bytes", 250.0).of_type(ElementType::U8);
const VISITS: Slot = Slot::zero("visits").of_type(ElementType::U32).per_run(1024);
const ROUNDS: Slot = Slot::constant("rounds", 7.0).of_type(ElementType::U64).scalar();
const HALF: Slot = Slot::constant("half", 1.0).bf16().scalar();
const COLUMN: Slot = Slot::zero("column").per_column();

impl Optimizer for Counting {
    const NAME: &'static str = "counting";
    const LEARNING_RATE: f64 = 0.1;
    type Round = ();

    fn plan(&self, _: &Tensor) -> Result<Plan, String> {
        Ok(Plan::new().slots(&[START, PRECISE, BYTES, VISITS, ROUNDS, HALF, COLUMN]).evaluation("middle"))
    }

    fn begin(&self, phase: usize, _: &Tensor, _: &Context, shared: &mut Shared<'_>) -> Result<(), String> {
        shared.slots.write::<u64>(ROUNDS)?[0] += 1;
        let (half, column) = shared.slots.write_both::<u16, f32>(HALF, COLUMN)?;
        half[0] = bf16::from_f32(2.0 * bf16::to_f32(half[0]));
        column.iter_mut().enumerate().for_each(|(index, value)| *value += index as f32);
        assert!(shared.slots.read::<f32>(START).unwrap_err().contains("in step"));
        assert!(shared.slots.read::<f32>(ROUNDS).unwrap_err().contains("U64"));
        assert!(shared.slots.read::<f32>(Slot::zero("other")).unwrap_err().contains("not in the plan"));
        assert!(phase <= 1);
        Ok(())
    }

    fn step(&self, _: &(), phase: usize, block: &mut Block<'_>) -> Result<(), String> {
        if phase == 1 {
            return block.evaluate([START, HALF], |parameter, [start, half]| (parameter + start) / 2.0 + half);
        }
        assert!(block.evaluate([], |parameter, []| parameter).is_err());
        let (precise, visits) = block.slots.write_both::<f64, u32>(PRECISE, VISITS)?;
        precise.iter_mut().for_each(|value| *value += 0.1);
        visits.iter_mut().for_each(|value| *value += 1);
        block.slots.write::<u8>(BYTES)?.iter_mut().for_each(|value| *value = value.wrapping_add(1));
        assert!(block.slots.write::<u64>(ROUNDS).unwrap_err().contains("begin only"));
        assert!(block.slots.write_all::<f32, 2>([START, START]).unwrap_err().contains("twice"));
        assert!(block.update([START, START], |p, _, s| (p, s)).unwrap_err().contains("twice"));
        assert!(block.update([PRECISE], |p, _, s| (p, s)).unwrap_err().contains("through the block's slots"));
        assert!(block.for_each_row([START], |_| ()).is_err());
        block.update([HALF, COLUMN], |parameter, gradient, [half, column]| {
            (parameter - half * gradient + column, [f32::NAN, f32::NAN])
        })
    }
}

#[test]
fn slots_of_every_type_start_count_and_are_seen_by_updates() {
    let tensor = Tensor::new("t", &[3, 2000], 0);
    let mut training = Native::of_tensor(Counting {}, tensor, wave(6000, 0.3)).cut(4096, 4096);
    training.round(0.1, &[1.0; 6000]);
    training.round(0.1, &[0.0; 6000]);
    assert_eq!(training.slot("start"), Some(wave(6000, 0.3).as_slice()));
    assert_eq!(training.slot_of::<f64>("precise"), Some([0.1 + 0.1 + 0.1; 6000].as_slice()));
    assert_eq!(training.slot_of::<u8>("bytes"), Some([252; 6000].as_slice()));
    assert_eq!(training.slot_of::<u32>("visits"), Some([2; 6].as_slice()));
    assert_eq!(training.slot_of::<u64>("rounds"), Some([9].as_slice()));
    assert_eq!(training.slot_of::<u16>("half"), Some([bf16::from_f32(4.0)].as_slice()));
    let expected = |index: usize| (wave(6000, 0.3)[index] - 2.0 + (index % 2000) as f32) + 2.0 * (index % 2000) as f32;
    assert!((0..6000).all(|index| training.parameters()[index] == expected(index)));
}

#[test]
fn evaluation_weights_leave_no_trace() {
    let start = wave(6000, 0.3);
    let mut training = Native::of_tensor(Counting {}, Tensor::new("t", &[3, 2000], 0), start.clone()).cut(4096, 4096);
    assert_eq!(training.evaluation(), start, "before the first round");
    training.round(0.1, &[1.0; 6000]);
    let before = training.parameters().to_vec();
    let weights = training.evaluation();
    // In that phase, `begin` doubles the scalar once more, in a copy that is discarded.
    assert!((0..6000).all(|index| weights[index] == (before[index] + start[index]) / 2.0 + 4.0));
    assert_eq!(weights, training.evaluation());
    assert_eq!(training.parameters(), before);
    assert_eq!(training.slot_of::<u64>("rounds"), Some([8].as_slice()));
}
