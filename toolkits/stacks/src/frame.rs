//! Frames as they are printed.

use agent_model::{Hex, Text};
use schemars::JsonSchema;
use serde::Serialize;

use crate::code::CodeMap;
use crate::unwind::{self, Unwound};

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Frame {
    /// The address in the process (AVMA): of the instruction that is next, or of
    /// that behind the call.
    #[schemars(extend("x-column" = "ADDRESS"))]
    pub address: Hex,
    /// The function, demangled; absent where it has no name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "FUNCTION"))]
    #[schemars(extend("x-class" = "name"))]
    pub function: Option<Text>,
    /// How far into the function the address is, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_offset: Option<Hex>,
    /// The source file, as the debug information has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "FILE"))]
    #[schemars(extend("x-class" = "path"))]
    pub file: Option<Text>,
    /// The line in it, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "LINE"))]
    pub line: Option<u32>,
    /// The functions that were inlined at this address, innermost first; `file` and
    /// `line` are then where the outermost of them was called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inlined: Vec<Inlined>,
    /// The module that the code is of; absent for code that a runtime has made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "MODULE"))]
    #[schemars(extend("x-class" = "path"))]
    pub module: Option<Text>,
    /// The address as linked (SVMA): with the build ID this is enough to find its
    /// line later, elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<Hex>,
    /// The module's build ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub build_id: Option<String>,
    /// `pc` for the innermost frame and one that a signal interrupted, `signal` for
    /// the frame of a signal, else `return_address`.
    #[schemars(extend("x-class" = "word"))]
    pub kind: &'static str,
    /// How it was found: `registers`, `call_frame_info` (exact), `frame_size` (that, with
    /// a frame pointer that was worked out and confirmed), `return_path` (by following the
    /// code to where it returns, confirmed by the call there), `frame_pointer` (a guess that
    /// fits), …
    #[schemars(extend("x-class" = "word"))]
    pub found_by: &'static str,
}

/// A function that was inlined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Inlined {
    /// Its name, demangled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub function: Option<Text>,
    /// The source file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub file: Option<Text>,
    /// The line in it, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

/// The frames of `stack` with what `code` knows of them.
pub fn frames(stack: Option<&Unwound>, code: &mut CodeMap<'_>) -> Vec<Frame> {
    let found = stack.map_or(&[][..], |stack| &stack.frames);
    found.iter().map(|frame| named(frame, code)).collect()
}

/// `frame` with what `code` knows of it.
pub fn named(frame: &unwind::Frame, code: &mut CodeMap<'_>) -> Frame {
    let name = code.name(frame.lookup_avma());
    // The name is that of the call; the offsets are those of the address.
    let behind = frame.avma.wrapping_sub(frame.lookup_avma());
    Frame {
        address: Hex(frame.avma),
        function: name.function,
        function_offset: name.function_offset.map(|offset| Hex(offset.wrapping_add(behind))),
        file: name.file,
        line: name.line,
        inlined: name.inlined,
        module: name.module,
        offset: name.offset.map(|svma| Hex(svma.wrapping_add(behind))),
        build_id: name.build_id,
        kind: frame.kind.as_str(),
        found_by: frame.found_by.as_str(),
    }
}
