//! Components that are small, valid, and a lot of work for a compiler.

use wasm_encoder::{
    BlockType, CodeSection, Component, Function, FunctionSection, Instruction, Module, ModuleSection, TypeSection,
    ValType,
};

/// A component with one module, which it does not even instantiate.
fn component(module: &Module) -> Vec<u8> {
    let mut component = Component::new();
    component.section(&ModuleSection(module));
    component.finish()
}

/// Loops within loops that go on from the innermost one in whichever of them the data says, where every local has changed:
/// in the form that compilers work on, each loop has a value of its own for each local, and each way back brings one for
/// each. A kilobyte for each hundred of these, work for their product.
pub fn nested_loops(locals: u32, loops: u32) -> Vec<u8> {
    let mut function = Function::new([(locals, ValType::I64)]);
    (0..loops).for_each(|_| {
        function.instruction(&Instruction::Loop(BlockType::Empty));
    });
    for local in 0..locals {
        function
            .instruction(&Instruction::LocalGet(local))
            .instruction(&Instruction::LocalGet((local + 1) % locals))
            .instruction(&Instruction::I64Add)
            .instruction(&Instruction::LocalSet(local));
    }
    for way in 0..loops {
        function
            .instruction(&Instruction::LocalGet(way % locals))
            .instruction(&Instruction::I32WrapI64)
            .instruction(&Instruction::BrIf(way));
    }
    (0..=loops).for_each(|_| {
        function.instruction(&Instruction::End);
    });
    let (mut types, mut functions, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    functions.function(0);
    code.function(&function);
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&code);
    component(&module)
}

/// More work than any test waits for, in a few kilobytes.
pub fn endless() -> Vec<u8> {
    nested_loops(900, 240)
}
