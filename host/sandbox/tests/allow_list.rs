//! Components that are refused before they are compiled, each with an error that identifies the feature and its
//! position.

mod common;

use common::component;
use stepbox_sandbox::{
    ComponentLimits, DEFAULT_NESTED_TYPES, Fault, Forbidden, Sandbox, SandboxConfig, SandboxError, Structure,
};
use wasm_encoder::{
    BlockType, CodeSection, Component, FieldType, Function, FunctionSection, Instruction, MemorySection, MemoryType,
    Module, ModuleSection, NestedComponentSection, RawSection, RefType, StartSection, StorageType, TableSection,
    TableType, TagKind, TagSection, TagType, TypeSection, ValType,
};

fn refused_with(bytes: &[u8], limits: ComponentLimits) -> Option<Forbidden> {
    let config = SandboxConfig { component: limits, ..SandboxConfig::default() };
    match Sandbox::new(config).unwrap().admit(bytes) {
        Err(error @ SandboxError::Forbidden(_)) => {
            assert_eq!(error.fault(), Fault::Publisher);
            let SandboxError::Forbidden(forbidden) = error else { unreachable!() };
            Some(forbidden)
        }
        _ => None,
    }
}

fn refused(bytes: &[u8]) -> Forbidden {
    match Sandbox::new(SandboxConfig::default()).unwrap().admit(bytes) {
        Err(SandboxError::Forbidden(forbidden)) => forbidden,
        Err(other) => panic!("not refused before compilation: {other}"),
        Ok(_) => panic!("admitted"),
    }
}

fn within(module: &Module) -> Vec<u8> {
    let mut component = Component::new();
    component.section(&ModuleSection(module));
    component.finish()
}

fn type_section() -> TypeSection {
    let mut types = TypeSection::new();
    types.ty().function([], []);
    types
}

fn memory_section(memories: &[MemoryType]) -> MemorySection {
    let mut section = MemorySection::new();
    for memory in memories {
        section.memory(*memory);
    }
    section
}

const MEMORY: MemoryType =
    MemoryType { minimum: 1, maximum: Some(1), memory64: false, shared: false, page_size_log2: None };

/// A module with one function with this body.
fn with_body(instructions: &[Instruction<'_>]) -> Vec<u8> {
    let (mut functions, mut code) = (FunctionSection::new(), CodeSection::new());
    functions.function(0);
    let mut function = Function::new([]);
    for instruction in instructions {
        function.instruction(instruction);
    }
    function.instruction(&Instruction::End);
    code.function(&function);
    let mut module = Module::new();
    module.section(&type_section()).section(&functions).section(&memory_section(&[MEMORY])).section(&code);
    within(&module)
}

#[test]
fn features_that_optimizers_do_not_need_are_refused_by_name() {
    use Instruction::*;
    let v128 = || V128Const(0);
    let mut cases = vec![
        ("relaxed", with_body(&[v128(), v128(), v128(), F32x4RelaxedMadd, Drop])),
        ("tail calls", with_body(&[ReturnCall(0)])),
        ("threads", with_body(&[AtomicFence])),
        ("exceptions", with_body(&[Throw(0)])),
        ("function references", with_body(&[RefNull(wasm_encoder::HeapType::Concrete(0)), CallRef(0)])),
        ("wide arithmetic", with_body(&[I64Const(1), I64Const(1), I64Const(1), I64Const(1), I64Add128, Drop, Drop])),
    ];
    for (name, memory) in [
        ("memory64", MemoryType { memory64: true, ..MEMORY }),
        ("threads", MemoryType { shared: true, ..MEMORY }),
        ("page", MemoryType { page_size_log2: Some(0), ..MEMORY }),
    ] {
        let mut module = Module::new();
        module.section(&memory_section(&[memory]));
        cases.push((name, within(&module)));
    }
    let mut tags = TagSection::new();
    tags.tag(TagType { kind: TagKind::Exception, func_type_idx: 0 });
    let mut module = Module::new();
    module.section(&type_section()).section(&tags);
    cases.push(("exceptions", within(&module)));
    let mut types = TypeSection::new();
    types.ty().struct_([FieldType { element_type: StorageType::Val(ValType::I32), mutable: true }]);
    let mut module = Module::new();
    module.section(&types);
    cases.push(("gc", within(&module)));
    let mut tables = TableSection::new();
    let element_type = RefType::EXTERNREF;
    tables.table(TableType { element_type, table64: false, minimum: 1, maximum: None, shared: false });
    let mut module = Module::new();
    module.section(&tables);
    cases.push(("gc", within(&module)));

    for (name, bytes) in cases {
        let forbidden = refused(&bytes);
        assert!(matches!(forbidden, Forbidden::Feature { .. } | Forbidden::Invalid { .. }), "{name}: {forbidden:?}");
        let text = forbidden.to_string().to_lowercase().replace(['-', '_'], " ");
        assert!(text.contains(name) && text.contains("at byte"), "{name}: {text}");
    }
}

#[test]
fn code_that_runs_by_itself_is_refused() {
    let (mut functions, mut code) = (FunctionSection::new(), CodeSection::new());
    functions.function(0);
    let mut function = Function::new([]);
    function.instruction(&Instruction::End);
    code.function(&function);
    let mut module = Module::new();
    module.section(&type_section()).section(&functions).section(&StartSection { function_index: 0 }).section(&code);
    assert!(matches!(refused(&within(&module)), Forbidden::StartFunction { offset } if offset > 8));
}

#[test]
fn what_is_no_component_is_told_from_one_that_is_damaged() {
    for bytes in [&b""[..], b"\0asm", b"\x7fELF", b"(component)", &Module::new().finish()] {
        assert_eq!(refused(bytes), Forbidden::NotAComponent);
    }
    let mut real = component("sgd");
    real.truncate(real.len() / 2);
    assert!(matches!(refused(&real), Forbidden::Invalid { offset, .. } if offset > 1000));
    assert!(matches!(refused(&with_body(&[Instruction::Drop])), Forbidden::Invalid { .. }));
}

type Field = (&'static str, fn(&mut ComponentLimits) -> &mut u64, fn(&Structure) -> u64);

const FIELDS: [Field; 17] = [
    ("modules", |limits| &mut limits.modules, |structure| structure.modules),
    ("components", |limits| &mut limits.components, |structure| structure.components),
    ("nesting", |limits| &mut limits.nesting, |structure| structure.nesting),
    ("instances", |limits| &mut limits.instances, |structure| structure.instances),
    ("types", |limits| &mut limits.types, |structure| structure.types),
    ("imports", |limits| &mut limits.imports, |structure| structure.imports),
    ("exports", |limits| &mut limits.exports, |structure| structure.exports),
    ("aliases", |limits| &mut limits.aliases, |structure| structure.aliases),
    ("functions", |limits| &mut limits.functions, |structure| structure.functions),
    ("tables", |limits| &mut limits.tables, |structure| structure.tables),
    ("memories", |limits| &mut limits.memories, |structure| structure.memories),
    ("globals", |limits| &mut limits.globals, |structure| structure.globals),
    ("segments", |limits| &mut limits.segments, |structure| structure.segments),
    ("function_bytes", |limits| &mut limits.function_bytes, |structure| structure.function_bytes),
    ("locals", |limits| &mut limits.locals, |structure| structure.locals),
    ("block_depth", |limits| &mut limits.block_depth, |structure| structure.block_depth),
    ("branch_targets", |limits| &mut limits.branch_targets, |structure| structure.branch_targets),
];

#[test]
fn each_size_has_a_limit_that_is_reached_by_one_more_than_it() {
    let soap = component("soap");
    let sandbox = Sandbox::new(SandboxConfig::default()).unwrap();
    let structure = sandbox.admit(&soap).unwrap().structure().clone();
    for (name, limit, found) in FIELDS {
        let enough = found(&structure);
        assert!(enough > 0, "{name}");
        let mut limits = ComponentLimits::default();
        *limit(&mut limits) = enough - 1;
        match refused_with(&soap, limits) {
            Some(Forbidden::TooMany { limit, found, allowed, offset, .. }) => {
                assert_eq!((limit, allowed), (name, enough - 1));
                assert!(found > allowed && offset < soap.len(), "{name}: {found} at {offset}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    // All counts at their exact limits.
    let mut exact = ComponentLimits::default();
    for (_, limit, found) in FIELDS {
        *limit(&mut exact) = found(&structure);
    }
    assert_eq!(refused_with(&soap, exact), None);
}

#[test]
fn our_own_optimizers_stay_far_below_the_limits() {
    let mut most = Structure::default();
    let sandbox = Sandbox::new(SandboxConfig::default()).unwrap();
    // The largest component, the one with the most matrices, and the one with a random stream.
    for name in ["soap", "adafactor", "sgld"] {
        let structure = sandbox.admit(&component(name)).unwrap().structure().clone();
        most.function_bytes = most.function_bytes.max(structure.function_bytes);
        most.functions = most.functions.max(structure.functions);
        most.branch_targets = most.branch_targets.max(structure.branch_targets);
        most.locals = most.locals.max(structure.locals);
    }
    let limits = ComponentLimits::default();
    for (used, limit) in [
        (most.function_bytes, limits.function_bytes),
        (most.functions, limits.functions),
        (most.branch_targets, limits.branch_targets),
        (most.locals, limits.locals),
    ] {
        assert!(10 * used <= limit, "{used} of {limit}");
    }
}

#[test]
fn blocks_and_components_within_each_other_end_at_the_limit() {
    let depth = 100_000;
    let mut body = vec![Instruction::Block(BlockType::Empty); depth];
    body.extend(vec![Instruction::End; depth]);
    assert!(matches!(refused(&with_body(&body)), Forbidden::TooMany { limit: "block_depth", .. }));

    let mut nested = Component::new();
    for _ in 0..10 {
        let mut outer = Component::new();
        outer.section(&NestedComponentSection(&nested));
        nested = outer;
    }
    assert!(matches!(refused(&nested.finish()), Forbidden::TooMany { limit: "nesting", .. }));
}

#[test]
fn types_within_types_do_not_overflow_the_servers_stack() {
    // A component type whose single declaration is a component type, and so on.
    let nested = |depth: usize| {
        let mut types = vec![1];
        (0..depth).for_each(|_| types.extend([0x41, 1, 1]));
        types.push(0x7f);
        let mut component = Component::new();
        component.section(&RawSection { id: 7, data: &types });
        component.finish()
    };
    assert!(matches!(refused(&nested(300_000)), Forbidden::TooMany { limit: "nested_types", .. }));
    // At the limit, both this parser and the compiler's parser can process it: it is a valid component, although not an
    // optimizer.
    let admitted = Sandbox::new(SandboxConfig::default()).unwrap().admit(&nested(DEFAULT_NESTED_TYPES as usize));
    assert!(matches!(admitted.map(|_| ()), Err(SandboxError::NoContract { .. })));
    assert!(matches!(
        refused(&nested(DEFAULT_NESTED_TYPES as usize + 1)),
        Forbidden::TooMany { limit: "nested_types", .. }
    ));
}
