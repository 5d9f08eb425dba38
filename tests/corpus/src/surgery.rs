//! Edits binary components, for components that no compiler produces.

/// Section number of a core module in a component.
const CORE_MODULE: u8 = 1;

/// Section number of the tables in a module.
const TABLES: u8 = 4;

/// Section number of the memories in a module.
const MEMORIES: u8 = 5;

const HEADER_BYTES: usize = 8;

/// Replaces each marked `memory.grow` with a `table.grow` by 8191 elements.
pub fn with_growing_table(mut component: Vec<u8>) -> Vec<u8> {
    // i32.const 0x7fff0001, memory.grow.
    const MARK: [u8; 8] = [0x41, 0x81, 0x80, 0xfc, 0xff, 0x07, 0x40, 0x00];
    // ref.null func, i32.const 8191, table.grow of the first table.
    const GROW: [u8; 8] = [0xd0, 0x70, 0x41, 0xff, 0x3f, 0xfc, 0x0f, 0x00];
    let places: Vec<_> =
        component.windows(MARK.len()).enumerate().filter(|(_, bytes)| *bytes == MARK).map(|(place, _)| place).collect();
    assert!(!places.is_empty(), "no `memory.grow` is marked");
    for place in places {
        component[place..place + GROW.len()].copy_from_slice(&GROW);
    }
    component
}

/// Adds `tables` tables of `elements` elements each to the module that has the memory.
pub fn with_tables(component: &[u8], tables: u32, elements: u32) -> Vec<u8> {
    let mut done = false;
    let sewn = mended(component, &mut |number, content| {
        let has_memory = number == CORE_MODULE && sections(content).iter().any(|(number, _)| *number == MEMORIES);
        (has_memory && !done).then(|| {
            done = true;
            mended(content, &mut |number, content| (number == TABLES).then(|| more_tables(content, tables, elements)))
        })
    });
    assert!(done && sewn.len() > component.len(), "no module with a memory and a table");
    sewn
}

fn more_tables(mut content: &[u8], tables: u32, elements: u32) -> Vec<u8> {
    let count = read_number(&mut content);
    let mut more = Vec::new();
    write_number(count + tables, &mut more);
    more.extend_from_slice(content);
    for _ in 0..tables {
        // Tables of functions, without a maximum.
        more.extend([0x70, 0x00]);
        write_number(elements, &mut more);
    }
    more
}

/// Returns the new content of a section from its number and content; `None` leaves it unchanged.
type Mending<'a> = dyn FnMut(u8, &[u8]) -> Option<Vec<u8>> + 'a;

/// A component or module with new contents for the sections that `mend` changes.
fn mended(bytes: &[u8], mend: &mut Mending<'_>) -> Vec<u8> {
    let mut sewn = bytes[..HEADER_BYTES].to_vec();
    for (number, content) in sections(bytes) {
        let content = mend(number, content).unwrap_or_else(|| content.to_vec());
        sewn.push(number);
        write_number(content.len() as u32, &mut sewn);
        sewn.extend(content);
    }
    sewn
}

/// Number and content of each section.
fn sections(bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut rest = &bytes[HEADER_BYTES..];
    let mut sections = Vec::new();
    while let Some(number) = rest.split_off_first() {
        let length = read_number(&mut rest) as usize;
        sections.push((*number, rest.split_off(..length).unwrap()));
    }
    sections
}

/// Reads an unsigned LEB128 number, WebAssembly's encoding.
fn read_number(bytes: &mut &[u8]) -> u32 {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let byte = *bytes.split_off_first().unwrap();
        number |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

fn write_number(mut number: u32, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}
