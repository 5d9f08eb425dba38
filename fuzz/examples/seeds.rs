//! Writes `seeds/`: inputs that are right, from which the fuzzer learns what to damage.
//!
//! Those of `plan` and `offsets` are written by hand: `host/sandbox/src/fuzz.rs` says what their bytes mean.
//!
//! Run it when a format changes: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.

use std::error::Error;
use std::fs;
use std::path::Path;

use stepbox_trust::{SigningKey, sign};
use stepbox_wire::{
    DeployOptions, ElementType, ErrorCode, Failure, Group, OptimizerStatus, PROTOCOL_VERSION, Request, Response,
    Schedule, ScheduleKind, ScheduleStatus, TensorFilter, TensorType, encode_request, encode_response,
};

/// The smallest component there is, and one with custom sections.
const COMPONENTS: [(&str, &[u8]); 2] = [
    ("empty", b"\0asm\x0d\0\x01\0"),
    ("custom-sections", b"\0asm\x0d\0\x01\0\x00\x07\x05firsta\x00\x08\x06secondb\x00\x08\x05thirdcc"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let write = |target: &str, name: &str, bytes: &[u8]| -> Result<(), Box<dyn Error>> {
        fs::create_dir_all(folder.join(target))?;
        Ok(fs::write(folder.join(target).join(name), bytes)?)
    };

    let tensor = TensorType { element: ElementType::F32, shape: vec![2, 3] };
    let values = [0_u8; 24];
    let key = || "hidden.weight".to_string();
    // Ids 0 and 1, then their values.
    let rows = [&[0; 8][..], &[1, 0, 0, 0, 0, 0, 0, 0], &values].concat();
    let kind = ScheduleKind::Cosine { rounds: 1000, final_ratio: 0.1 };
    let schedule = Schedule { warmup_rounds: 10, kind };
    let no_decay = Group {
        name: "no-decay".to_string(),
        tensors: TensorFilter { keys: vec!["*.bias".to_string()], maximum_axes: Some(1), ..TensorFilter::default() },
        hyperparameters: vec![("weight_decay".to_string(), "0".to_string())],
        learning_rate_multiplier: 1.0,
    };
    let requests = [
        ("hello", Request::Hello { protocol: PROTOCOL_VERSION }, &[][..]),
        ("init", Request::Init { key: key(), tensor: tensor.clone(), tags: vec!["hidden".to_string()] }, &values),
        ("push", Request::Push { key: key(), round: 7, tensor: tensor.clone(), loss: Some(0.5) }, &values),
        ("pull", Request::Pull { key: key(), version: 7, evaluation: false }, &[]),
        ("push-rows", Request::PushRows { key: key(), round: 8, values: tensor.clone(), loss: None }, &rows),
        ("pull-rows", Request::PullRows { key: key(), version: 8, rows: 2 }, &rows[..16]),
        ("barrier", Request::Barrier { number: 1 }, &[]),
        (
            "deploy",
            Request::Deploy(DeployOptions {
                learning_rate: Some(0.001),
                schedule: Some(schedule),
                hyperparameters: vec![("weight_decay".to_string(), "0.01".to_string())],
                groups: vec![no_decay],
            }),
            COMPONENTS[0].1,
        ),
        ("set-schedule", Request::SetSchedule { learning_rate: Some(0.001), schedule }, &[]),
        ("status", Request::Status { weights_digest: true }, &[]),
    ];
    let mut conversation = Vec::new();
    for (id, (name, request, body)) in (1..).zip(requests) {
        let frame = [&encode_request(id, &request, body.len() as u64), body].concat();
        write("frame", &format!("request-{name}"), &frame)?;
        conversation.extend_from_slice(&frame);
    }
    write("frame", "conversation", &conversation)?;

    let schedule = ScheduleStatus { learning_rate: 0.001, schedule, from_round: 8 };
    let optimizer = OptimizerStatus {
        name: "adamw".to_string(),
        version: "1.0.0".to_string(),
        publisher: "0123456789abcdef".to_string(),
        digest: "00".repeat(32),
    };
    let responses = [
        ("pulled", Response::Pulled { version: 7, tensor }, &values[..]),
        (
            "deployed",
            Response::Deployed {
                optimizer,
                from_round: 8,
                state_kept: true,
                schedule,
                groups: vec![("no-decay".to_string(), 2)],
            },
            &[],
        ),
        ("failed", Response::Failed(Failure { code: ErrorCode::WrongShape, message: "it is 2 x 3".to_string() }), &[]),
    ];
    for (id, (name, response, body)) in (1..).zip(responses) {
        let frame = [&encode_response(id, &response, body.len() as u64), body].concat();
        write("frame", &format!("response-{name}"), &frame)?;
    }

    let signer = SigningKey::generate()?;
    for (name, component) in COMPONENTS {
        write("signature", &format!("{name}-unsigned"), component)?;
        write("signature", &format!("{name}-signed"), &sign(component, "adamw", "1.0.0", &signer)?)?;
    }
    Ok(())
}
