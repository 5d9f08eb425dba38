//! Every shipped component gives, bit for bit, the results of the same code run natively: parameters, slots and
//! evaluation weights, over 60 rounds. Half of the rounds have gradients near the bottom of the range, where epsilons
//! and denormals matter.
//!
//! (This includes matrix optimizers: the sandbox's product and the native product are the same code.)

use std::collections::BTreeSet;

use stepbox_guest::{Context, Gradient, NativeModel, Optimizer, Tensor};
use stepbox_optimizer_tests::{admit, bits, context, shipped, values};
use stepbox_sandbox::{Limits, LocalTensor, LocalTraining, TensorDescription};

/// A matrix (both sides long enough for Adafactor to factor it), a vector of more than one chunk, and a small matrix.
const SHAPES: [&[u64]; 3] = [&[140, 131], &[9001], &[24, 40]];

const ROUNDS: u64 = 60;

fn first_parameters(tensor: usize) -> Vec<f32> {
    values(SHAPES[tensor].iter().product::<u64>() as usize, 1000 + tensor as u32)
}

fn same_bits<O: Optimizer + Default>(name: &str) {
    let component = admit(name, Limits { block_elements: 4096, ..Limits::default() });
    let settings = component.configure(None, &[]).expect("defaults are acceptable");
    let rate = settings.learning_rate();
    let tensors = (0..SHAPES.len()).map(|index| LocalTensor {
        description: TensorDescription {
            name: format!("tensor{index}"),
            shape: SHAPES[index].to_vec(),
            identity: 7 + index as u64,
            ..TensorDescription::default()
        },
        settings: settings.clone(),
        parameters: first_parameters(index),
    });
    let mut sandboxed = LocalTraining::new(&component, tensors.collect(), 1 << 20).expect("the tensors fit");
    let mut native = NativeModel::new();
    for (index, shape) in SHAPES.iter().enumerate() {
        let tensor = Tensor::new(&format!("tensor{index}"), shape, 7 + index as u64);
        native = native.with(O::default(), tensor, first_parameters(index));
    }

    let mut last = context(1, rate);
    for round in 1..=ROUNDS {
        last = context(round, rate);
        let scale = if round > ROUNDS / 2 { 1e-6 } else { 1.0 };
        let gradient = |index: usize| {
            let values = values(first_parameters(index).len(), 64 * round as u32 + index as u32);
            values.into_iter().map(|value| value * scale).collect::<Vec<f32>>()
        };
        let gradients: Vec<_> = (0..SHAPES.len()).map(gradient).collect();
        let gradients: Vec<_> = gradients.iter().map(Vec::as_slice).collect();
        sandboxed.round(&last, &gradients).unwrap_or_else(|error| panic!("{name}: {error}"));
        let same = Context { loss: last.loss, seed: last.seed, ..Context::of_round(round, rate as f32) };
        let gradients: Vec<_> = gradients.into_iter().map(Gradient::Dense).collect();
        native.try_round(&[same; SHAPES.len()], &gradients).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    for (index, tensor) in native.tensors().iter().enumerate() {
        let shape = SHAPES[index];
        let parameters = sandboxed.parameters(index).expect("the memory is there");
        assert!(bits(&parameters) == bits(tensor.parameters()), "{name}: parameters of {shape:?}");
        let evaluation = sandboxed.evaluation(index, &last).expect("evaluation weights");
        assert!(bits(&evaluation) == bits(&tensor.evaluation()), "{name}: evaluation weights of {shape:?}");
        for slot in &sandboxed.plan(index).slots {
            let in_slices = sandboxed.slot(index, &slot.name).unwrap().expect("a slot of the plan");
            let [bytes] = in_slices.as_slice() else { panic!("{name}: {shape:?} is one slice") };
            assert!(tensor.slot_bytes(&slot.name) == Some(*bytes), "{name}: slot {} of {shape:?}", slot.name);
        }
    }
}

macro_rules! all {
    ($($test:ident: $name:literal, $type:ty;)*) => {
        $(
            #[test]
            fn $test() {
                same_bits::<$type>($name);
            }
        )*

        #[test]
        fn every_shipped_optimizer_is_compared() {
            assert_eq!(BTreeSet::from_iter([$($name.to_owned()),*]), BTreeSet::from_iter(shipped()));
        }
    };
}

all! {
    adabelief: "adabelief", optimizer_adabelief::AdaBelief;
    adadelta: "adadelta", optimizer_adadelta::Adadelta;
    adafactor: "adafactor", optimizer_adafactor::Adafactor;
    adagrad: "adagrad", optimizer_adagrad::Adagrad;
    adam: "adam", optimizer_adam::Adam;
    adamax: "adamax", optimizer_adamax::Adamax;
    adamw_8bit: "adamw-8bit", optimizer_adamw_8bit::AdamW8bit;
    adamw: "adamw", optimizer_adamw::AdamW;
    adan: "adan", optimizer_adan::Adan;
    amsgrad: "amsgrad", optimizer_amsgrad::AmsGrad;
    ftrl: "ftrl", optimizer_ftrl::Ftrl;
    lamb: "lamb", optimizer_lamb::Lamb;
    lars: "lars", optimizer_lars::Lars;
    lazy_adam: "lazy-adam", optimizer_lazy_adam::LazyAdam;
    lion: "lion", optimizer_lion::Lion;
    muon: "muon", optimizer_muon::Muon;
    nadam: "nadam", optimizer_nadam::NAdam;
    novograd: "novograd", optimizer_novograd::NovoGrad;
    prodigy: "prodigy", optimizer_prodigy::Prodigy;
    radam: "radam", optimizer_radam::RAdam;
    rmsprop: "rmsprop", optimizer_rmsprop::RmsProp;
    rowwise_adagrad: "rowwise-adagrad", optimizer_rowwise_adagrad::RowwiseAdagrad;
    schedule_free_adamw: "schedule-free-adamw", optimizer_schedule_free_adamw::ScheduleFreeAdamW;
    sgd: "sgd", optimizer_sgd::Sgd;
    sgld: "sgld", optimizer_sgld::Sgld;
    shampoo: "shampoo", optimizer_shampoo::Shampoo;
    signum: "signum", optimizer_signum::Signum;
    soap: "soap", optimizer_soap::Soap;
}
