//! Writes `seeds/`: inputs that are right, from which the fuzzer learns what to damage.
//!
//! Those of `plan` and `offsets` are written by hand: `host/sandbox/src/fuzz.rs` says what their bytes mean.
//!
//! Run it when a format changes: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.

use std::error::Error;
use std::fs;
use std::path::Path;

use stepbox_trust::{SigningKey, add_signature, fuzz_keys, sign};
use stepbox_wire::{
    DeployOptions, ElementType, ErrorCode, Failure, Group, OptimizerStatus, PROTOCOL_VERSION, Request, Response,
    Schedule, ScheduleKind, ScheduleStatus, TensorFilter, TensorType, encode_request, encode_response,
};

/// The smallest component there is, and one with custom sections.
const COMPONENTS: [(&str, &[u8]); 2] = [
    ("empty", b"\0asm\x0d\0\x01\0"),
    ("custom-sections", b"\0asm\x0d\0\x01\0\x00\x07\x05firsta\x00\x08\x06secondb\x00\x08\x05thirdcc"),
];

/// A server's configuration with most that can be set.
const CONFIGURATION: &str = "\
listen = '127.0.0.1:0'
state_directory = 'state'
shard_threads = 2
[tls]
ca = 'ca.pem'
certificate = 'server.pem'
key = 'server.key'
[job]
workers = ['a', 'b']
aggregation = 'sum'
round_timeout_seconds = 2.5
gradient_types = ['f32', 'bf16']
[trust]
store = 'publishers.toml'
[limits]
connections = 7
handshake_seconds = 1
[cache]
entries = 3
";

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
        ("hello", Request::Hello { protocol: PROTOCOL_VERSION, job: "vision".to_string() }, &[][..]),
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
        ("rollback", Request::Rollback { to: Some("0a".repeat(32)) }, &[]),
        ("submit", Request::Submit, COMPONENTS[0].1),
        ("activate", Request::Activate { digest: "0a".repeat(32), options: DeployOptions::default() }, &[]),
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
        (
            "failed",
            Response::Failed(Failure {
                code: ErrorCode::Untrusted,
                message: "it is revoked".to_string(),
                reason: Some("revoked-digest".to_string()),
            }),
            &[],
        ),
    ];
    for (id, (name, response, body)) in (1..).zip(responses) {
        let frame = [&encode_response(id, &response, body.len() as u64), body].concat();
        write("frame", &format!("response-{name}"), &frame)?;
    }

    write("admission", "empty", COMPONENTS[0].1)?;
    write("admission", "custom-sections", COMPONENTS[1].1)?;
    write("admission", "small", &small_component())?;
    write("admission", "changes", &[1, 0, 1, 0, 7, 200, 30, 0, 255])?;
    // What an entry begins with; what comes behind cannot be made without the key.
    write("cache_entry", "short", b"stepbox\x01")?;
    write("cache_entry", "whole", &[&b"stepbox\x01"[..], &[7; 32 + 3 * 32 + 16]].concat())?;

    // The keys that the targets know.
    let [signer, other] = fuzz_keys();
    for (name, component) in COMPONENTS {
        write("signature", &format!("{name}-unsigned"), component)?;
        let signed = sign(component, "adamw", "1.0.0", &signer)?;
        write("signature", &format!("{name}-signed"), &signed)?;
        let signed = add_signature(&signed, &other)?;
        write("signature", &format!("{name}-signed-by-two"), &signed)?;
    }
    let three = add_signature(&sign(COMPONENTS[0].1, "team-a/adamw", "1.0.0-rc.1", &signer)?, &other)?;
    write("signature", "signed-by-three", &add_signature(&three, &SigningKey::generate()?)?)?;

    for (name, optimizer, version) in [
        ("plain", "adamw", "1.0.0"),
        ("namespaces", "team-a/vision/adamw-8bit", "10.20.30-rc.1"),
        ("short", "a", "0.0.0"),
    ] {
        let publisher = signer.public_key().id();
        let manifest = format!(r#"{{"name":"{optimizer}","version":"{version}","publisher":"{publisher}"}}"#);
        write("manifest", name, manifest.as_bytes())?;
    }

    write("configuration", "one-job", CONFIGURATION.as_bytes())?;
    write(
        "configuration",
        "two-jobs",
        CONFIGURATION.replace("[job]", "[jobs.one]\nworkers = ['c']\n[jobs.two]").as_bytes(),
    )?;

    let (one, two) = (signer.public_key(), other.public_key());
    write(
        "trust_policy",
        "old",
        format!("[[publisher]]\nname = 'me'\npublic_key = '{one}'\noptimizers = ['a*']\n[end]\n").as_bytes(),
    )?;
    let third = SigningKey::generate()?;
    let whole = format!(
        "format = 1\nrevoked_keys = ['{}', {{ key = '0123456789abcdef01234567', reason = 'lost', date = 2026-11-02 }}]\n\
         revoked_digests = [{{ digest = '{}', date = '2026-11-02T12:00:00Z' }}]\n\
         [minimum_versions]\n'team-a/adamw' = '1.2.0'\n\
         [[publisher]]\nname = 'Team A'\nnamespaces = ['team-a/*', 'lion']\n\
         [[publisher.key]]\npublic_key = '{one}'\nvalid_until = 2026-06-30\n\
         [[publisher.key]]\npublic_key = '{}'\nvalid_from = 2026-06-01\n\
         [[publisher]]\nname = 'Board'\npublic_key = '{two}'\nnamespaces = []\n\
         [[rule]]\nnames = ['team-a/*', '*']\nsigners = ['Team A', 'Board']\nthreshold = 2\n[end]\n",
        third.public_key().id(),
        "0f".repeat(32),
        third.public_key(),
    );
    write("trust_policy", "whole", whole.as_bytes())?;
    write("trust_policy", "newer", b"format = 2\nquorum = 3\n")?;
    Ok(())
}

/// One of most things that an optimizer's component consists of.
fn small_component() -> Vec<u8> {
    use wasm_encoder::*;

    let mut types = TypeSection::new();
    types.ty().function([ValType::I32], [ValType::I32]);
    let (mut functions, mut code) = (FunctionSection::new(), CodeSection::new());
    functions.function(0);
    let mut function = Function::new([(3, ValType::I64), (1, ValType::V128)]);
    function
        .instruction(&Instruction::Block(BlockType::Empty))
        .instruction(&Instruction::Loop(BlockType::Empty))
        .instruction(&Instruction::LocalGet(0))
        .instruction(&Instruction::BrTable([0, 1].as_slice().into(), 1))
        .instruction(&Instruction::End)
        .instruction(&Instruction::End)
        .instruction(&Instruction::LocalGet(0))
        .instruction(&Instruction::F32x4Splat)
        .instruction(&Instruction::Drop)
        .instruction(&Instruction::LocalGet(0))
        .instruction(&Instruction::End);
    code.function(&function);
    let mut memories = MemorySection::new();
    memories.memory(MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None });
    let mut globals = GlobalSection::new();
    globals.global(GlobalType { val_type: ValType::I32, mutable: true, shared: false }, &ConstExpr::i32_const(1024));
    let mut exports = ExportSection::new();
    exports.export("step", ExportKind::Func, 0);
    let mut data = DataSection::new();
    data.active(0, &ConstExpr::i32_const(8), *b"text");
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&memories).section(&globals).section(&exports);
    module.section(&code).section(&data);

    let mut component = Component::new();
    component.section(&ModuleSection(&module));
    let mut instances = InstanceSection::new();
    instances.instantiate::<_, &str>(0, []);
    component.section(&instances);
    let mut aliases = ComponentAliasSection::new();
    aliases.alias(Alias::CoreInstanceExport { instance: 0, kind: ExportKind::Func, name: "step" });
    component.section(&aliases);
    let mut types = ComponentTypeSection::new();
    types.function().params([("x", PrimitiveValType::U32)]).result(Some(PrimitiveValType::U32.into()));
    component.section(&types);
    let mut canonicals = CanonicalFunctionSection::new();
    canonicals.lift(0, 0, []);
    component.section(&canonicals);
    let mut exports = ComponentExportSection::new();
    exports.export("step", ComponentExportKind::Func, 0, None);
    component.section(&exports);
    component.finish()
}
