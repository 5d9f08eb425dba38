//! The pass over a component.

use wasmparser::{
    Encoding, FuncToValidate, FuncValidatorAllocations, FunctionBody, Operator, Parser, Payload, ValidPayload,
    Validator, ValidatorResources,
};

use crate::error::Forbidden;
use crate::limits::{ComponentLimits, FEATURES, Structure};

/// A component that may reach the compiler as far as this module is concerned.
pub(crate) struct Surveyed {
    /// What it consists of.
    pub(crate) structure: Structure,
    /// What it imports, by name.
    pub(crate) imports: Vec<String>,
}

pub(super) struct Survey<'a> {
    limits: &'a ComponentLimits,
    validator: Validator,
    /// So far.
    structure: Structure,
    /// How many components we are in.
    depth: u64,
    /// What surrounds us, outermost first.
    surroundings: Vec<Encoding>,
    allocations: FuncValidatorAllocations,
    /// What the outermost component imports, by name.
    imports: Vec<String>,
}

impl<'a> Survey<'a> {
    pub(super) fn new(limits: &'a ComponentLimits) -> Self {
        Self {
            limits,
            validator: Validator::new_with_features(FEATURES),
            structure: Structure::default(),
            depth: 0,
            surroundings: Vec::new(),
            allocations: FuncValidatorAllocations::default(),
            imports: Vec::new(),
        }
    }

    pub(super) fn run(mut self, component: &[u8]) -> Result<Surveyed, Forbidden> {
        let mut parser = Parser::new(0);
        parser.set_features(FEATURES);
        for payload in parser.parse_all(component) {
            let payload = payload?;
            if let Payload::ComponentTypeSection(section) = &payload {
                let range = section.range();
                self.structure.nested_types += nested_types(component.get(range.clone()).unwrap_or_default());
                self.within_limits(range.start)?;
            }
            self.count(&payload)?;
            if let Payload::ComponentImportSection(section) = &payload
                && self.depth == 1
            {
                for import in section.clone() {
                    self.imports.push(import?.name.name.to_owned());
                }
            }
            match self.validator.payload(&payload)? {
                ValidPayload::Func(function, body) => self.function(function, &body)?,
                // Whose parser it is, `parse_all` knows.
                ValidPayload::Ok | ValidPayload::Parser(_) | ValidPayload::End(_) => {}
            }
        }
        Ok(Surveyed { structure: self.structure, imports: self.imports })
    }

    /// Counts what a section says that it holds, before that is read.
    fn count(&mut self, payload: &Payload<'_>) -> Result<(), Forbidden> {
        let structure = &mut self.structure;
        let offset = match payload {
            Payload::Version { encoding, range, .. } => {
                self.surroundings.push(*encoding);
                match encoding {
                    Encoding::Module => structure.modules += 1,
                    Encoding::Component => {
                        // The outermost is none within another.
                        structure.components += u64::from(self.depth > 0);
                        self.depth += 1;
                        structure.nesting = structure.nesting.max(self.depth);
                    }
                }
                range.start
            }
            Payload::End(offset) => {
                if let Some(Encoding::Component) = self.surroundings.pop() {
                    self.depth -= 1;
                }
                *offset
            }
            Payload::StartSection { range, .. } | Payload::ComponentStartSection { range, .. } => {
                return Err(Forbidden::StartFunction { offset: range.start });
            }
            Payload::TypeSection(section) => add(&mut structure.types, section.count(), section.range().start),
            Payload::CoreTypeSection(section) => add(&mut structure.types, section.count(), section.range().start),
            Payload::ComponentTypeSection(section) => add(&mut structure.types, section.count(), section.range().start),
            Payload::ImportSection(section) => {
                // Entries may stand for several imports each.
                let mut imports = 0_u64;
                for import in section.clone().into_imports() {
                    import?;
                    imports += 1;
                }
                structure.imports += imports;
                section.range().start
            }
            Payload::ComponentImportSection(section) => {
                add(&mut structure.imports, section.count(), section.range().start)
            }
            Payload::ExportSection(section) => add(&mut structure.exports, section.count(), section.range().start),
            Payload::ComponentExportSection(section) => {
                add(&mut structure.exports, section.count(), section.range().start)
            }
            Payload::FunctionSection(section) => add(&mut structure.functions, section.count(), section.range().start),
            Payload::TableSection(section) => add(&mut structure.tables, section.count(), section.range().start),
            Payload::MemorySection(section) => add(&mut structure.memories, section.count(), section.range().start),
            Payload::GlobalSection(section) => add(&mut structure.globals, section.count(), section.range().start),
            Payload::ElementSection(section) => add(&mut structure.segments, section.count(), section.range().start),
            Payload::DataSection(section) => add(&mut structure.segments, section.count(), section.range().start),
            Payload::InstanceSection(section) => add(&mut structure.instances, section.count(), section.range().start),
            Payload::ComponentInstanceSection(section) => {
                add(&mut structure.instances, section.count(), section.range().start)
            }
            Payload::ComponentAliasSection(section) => {
                add(&mut structure.aliases, section.count(), section.range().start)
            }
            Payload::ComponentCanonicalSection(section) => {
                add(&mut structure.aliases, section.count(), section.range().start)
            }
            Payload::CodeSectionEntry(body) => return self.count_body(body),
            // What is left holds nothing, or is refused by the validator, or is not looked at by anybody.
            _ => return Ok(()),
        };
        self.within_limits(offset)
    }

    /// Counts what a function has, before it is validated.
    fn count_body(&mut self, body: &FunctionBody<'_>) -> Result<(), Forbidden> {
        let range = body.range();
        self.structure.function_bytes = self.structure.function_bytes.max(range.len() as u64);
        let mut locals = 0_u64;
        for group in body.get_locals_reader()? {
            locals += u64::from(group?.0);
        }
        self.structure.locals = self.structure.locals.max(locals);
        self.within_limits(range.start)
    }

    fn function(
        &mut self,
        function: FuncToValidate<ValidatorResources>,
        body: &FunctionBody<'_>,
    ) -> Result<(), Forbidden> {
        let mut validator = function.into_validator(std::mem::take(&mut self.allocations));
        let mut reader = body.get_binary_reader();
        validator.read_locals(&mut reader)?;
        reader.set_features(FEATURES);
        let mut targets = 0_u64;
        let mut operators = wasmparser::OperatorsReader::new(reader);
        while !operators.eof() {
            let (operator, offset) = operators.read_with_offset()?;
            if let Operator::BrTable { targets: table } = &operator {
                targets += u64::from(table.len()) + 1;
                self.structure.branch_targets = self.structure.branch_targets.max(targets);
                self.within_limits(offset)?;
            }
            validator.op(offset, &operator)?;
            let depth = u64::from(validator.control_stack_height());
            if depth > self.structure.block_depth {
                self.structure.block_depth = depth;
                self.within_limits(offset)?;
            }
        }
        operators.finish()?;
        self.allocations = validator.into_allocations();
        Ok(())
    }

    fn within_limits(&self, offset: usize) -> Result<(), Forbidden> {
        match self.structure.exceeded(self.limits) {
            Some((what, limit, found, allowed)) => Err(Forbidden::TooMany { what, limit, found, allowed, offset }),
            None => Ok(()),
        }
    }
}

/// At most how deep types lie in each other in a section of types. The parser follows them by calling itself, and whoever
/// lets it go too deep has no stack left and no process.
///
/// A type within another (that of a component, 0x41, or of an instance, 0x42) is always a declaration, whose first byte is
/// 0x01, so there are no more than such pairs of bytes. By chance names and numbers may have some too.
fn nested_types(section: &[u8]) -> u64 {
    section.windows(2).filter(|pair| matches!(pair, [0x01, 0x41 | 0x42])).count() as u64
}

fn add(counter: &mut u64, count: u32, offset: usize) -> usize {
    *counter += u64::from(count);
    offset
}
