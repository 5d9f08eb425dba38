//! Writes `seeds/`: inputs that are right, from which the fuzzer learns what to damage.
//!
//! Run it when a format changes: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.

use std::error::Error;
use std::fs;
use std::path::Path;

use stepbox_trust::{SigningKey, sign};
use stepbox_wire::{
    ElementType, ErrorCode, Failure, OptimizerStatus, PROTOCOL_VERSION, Request, Response, TensorType, encode_request,
    encode_response,
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
    let requests = [
        ("hello", Request::Hello { protocol: PROTOCOL_VERSION }, &[][..]),
        ("init", Request::Init { key: key(), tensor: tensor.clone() }, &values),
        ("push", Request::Push { key: key(), round: 7, tensor: tensor.clone() }, &values),
        ("pull", Request::Pull { key: key(), version: 7 }, &[]),
        ("barrier", Request::Barrier { number: 1 }, &[]),
        (
            "deploy",
            Request::Deploy {
                learning_rate: Some(0.001),
                hyperparameters: vec![("weight_decay".to_string(), "0.01".to_string())],
            },
            COMPONENTS[0].1,
        ),
        ("status", Request::Status { weights_digest: true }, &[]),
    ];
    let mut conversation = Vec::new();
    for (id, (name, request, body)) in (1..).zip(requests) {
        let frame = [&encode_request(id, &request, body.len() as u64), body].concat();
        write("frame", &format!("request-{name}"), &frame)?;
        conversation.extend_from_slice(&frame);
    }
    write("frame", "conversation", &conversation)?;

    let optimizer = OptimizerStatus {
        name: "adamw".to_string(),
        version: "1.0.0".to_string(),
        publisher: "0123456789abcdef".to_string(),
        digest: "00".repeat(32),
    };
    let responses = [
        ("pulled", Response::Pulled { version: 7, tensor }, &values[..]),
        ("deployed", Response::Deployed { optimizer, from_round: 8, state_kept: true }, &[]),
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
