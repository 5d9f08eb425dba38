//! Components that are small and valid, but take a compiler a long time.

use wasm_encoder::{
    BlockType, CodeSection, Component, Function, FunctionSection, Instruction, Module, ModuleSection, TypeSection,
    ValType,
};

/// A component with one module that it does not instantiate.
fn component(module: &Module) -> Vec<u8> {
    let mut component = Component::new();
    component.section(&ModuleSection(module));
    component.finish()
}

/// Nested loops, with branches from the innermost loop to each of the others depending on data, after every local has
/// changed. In a compiler's SSA form, each loop has a value for each local, and each branch passes one value for each
/// local. The code has about a kilobyte per hundred locals and loops; the work grows with their product.
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
