//! Which devices a container may use: the spec's rules -> a program for its cgroup. Pure, but for looking at what devices
//! the guest has.
//!
//! Version 2 of cgroups has no list of devices; a program decides on each access. It is made by runc's rules: the last rule
//! that matches wins, what no rule names is refused, and a small set is always allowed.

use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::bpf::{Instruction, Register};
use crate::modules;

/// Kinds of devices and ways of access as the kernel gives them to the program: `access << 16 | kind`.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MKNOD | READ | WRITE;

/// One rule; `None` is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

/// Always allowed: making any node, and those that every container has.
const DEFAULT: [Rule; 11] = [
    allow(CHARACTER, None, None, MKNOD),
    allow(BLOCK, None, None, MKNOD),
    allow(CHARACTER, Some(1), Some(3), ALL),    // null
    allow(CHARACTER, Some(1), Some(5), ALL),    // zero
    allow(CHARACTER, Some(1), Some(7), ALL),    // full
    allow(CHARACTER, Some(1), Some(8), ALL),    // random
    allow(CHARACTER, Some(1), Some(9), ALL),    // urandom
    allow(CHARACTER, Some(5), Some(0), ALL),    // tty
    allow(CHARACTER, Some(5), Some(2), ALL),    // ptmx
    allow(CHARACTER, Some(136), None, ALL),     // pts
    allow(CHARACTER, Some(10), Some(200), ALL), // net/tun
];

const fn allow(kind: i32, major: Option<i32>, minor: Option<i32>, access: i32) -> Rule {
    Rule { allow: true, kind: Some(kind), major, minor, access }
}

impl Rule {
    fn of(rule: &LinuxDeviceCgroup) -> Self {
        let kind = match rule.typ() {
            Some(LinuxDeviceType::B) => Some(BLOCK),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
            _ => None,
        };
        let number = |number: Option<i64>| number.filter(|number| *number >= 0).map(|number| number as i32);
        let letters = rule.access().as_deref().unwrap_or_default();
        let letter = |letter, flag| if letters.contains(letter) { flag } else { 0 };
        let access = letter('m', MKNOD) | letter('r', READ) | letter('w', WRITE);
        Self {
            allow: rule.allow(),
            kind,
            major: number(rule.major()),
            minor: number(rule.minor()),
            // Left out, every access is meant.
            access: if letters.is_empty() { ALL } else { access },
        }
    }

    fn is_for_all(&self) -> bool {
        (self.kind, self.major, self.minor, self.access) == (None, None, None, ALL)
    }
}

/// Whether the rules allow everything in the end, as those of a privileged container.
pub fn allow_all(rules: &[LinuxDeviceCgroup]) -> bool {
    rules.iter().map(Rule::of).rfind(Rule::is_for_all).is_some_and(|rule| rule.allow)
}

/// Whether the guest has a driver for these numbers, or its kernel finds one when they are opened.
pub fn in_guest(kind: LinuxDeviceType, major: i64, minor: i64) -> bool {
    let folder = if kind == LinuxDeviceType::B { "block" } else { "char" };
    Path::new(&format!("/sys/dev/{folder}/{major}:{minor}")).exists()
        || modules::has_driver(folder, major, minor)
}

/// The program for these rules; `None` if everything is allowed.
pub fn program(rules: &[LinuxDeviceCgroup]) -> Option<Vec<Instruction>> {
    if allow_all(rules) {
        return None;
    }
    let mut program = vec![
        Instruction::load(Register::R2, Register::R1, 0),
        Instruction::and(Register::R2, 0xffff), // the kind
        Instruction::load(Register::R3, Register::R1, 0),
        Instruction::shift_right(Register::R3, 16), // the access
        Instruction::load(Register::R4, Register::R1, 4), // major
        Instruction::load(Register::R5, Register::R1, 8), // minor
    ];
    // The first match decides, so the last rule comes first.
    let of_spec: Vec<Rule> = rules.iter().map(Rule::of).collect();
    let rules = DEFAULT.iter().rev().chain(of_spec.iter().rev());
    let mut refuse_rest = true;
    for rule in rules {
        program.extend(block(rule));
        if rule.is_for_all() {
            // Nothing after it is ever reached, and the kernel refuses programs with such parts.
            refuse_rest = false;
            break;
        }
    }
    if refuse_rest {
        program.extend([Instruction::set(Register::R0, 0), Instruction::exit()]);
    }
    Some(program)
}

/// "If this rule matches, decide; else go on behind."
fn block(rule: &Rule) -> Vec<Instruction> {
    let decide = [Instruction::set(Register::R0, i32::from(rule.allow)), Instruction::exit()];
    let mut tests = Vec::new();
    let equal = [(Register::R2, rule.kind), (Register::R4, rule.major), (Register::R5, rule.minor)];
    for (register, value) in equal {
        if let Some(value) = value {
            tests.push(vec![(register, value)]);
        }
    }
    let masked = rule.access != ALL;
    // Each test is a jump; that of access takes two instructions more.
    let length = tests.len() + if masked { 3 } else { 0 } + decide.len();
    let mut block = Vec::with_capacity(length);
    for (register, value) in tests.into_iter().flatten() {
        let over = length - block.len() - 1;
        block.push(Instruction::jump_unless(register, value, over as i16));
    }
    if masked {
        block.push(Instruction::copy(Register::R1, Register::R3));
        block.push(Instruction::and(Register::R1, rule.access));
        let over = length - block.len() - 1;
        block.push(Instruction::jump_unless_same(Register::R1, Register::R3, over as i16));
    }
    block.extend(decide);
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(rules: serde_json::Value) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_value(rules).unwrap()
    }

    /// What the kernel would do with the program.
    fn allowed(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        Instruction::run(program, [access << 16 | kind, major, minor]) == 1
    }

    #[test]
    fn the_last_rule_that_matches_wins_and_the_rest_is_refused() {
        let none = program(&[]).unwrap();
        let docker = program(&rules(json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            {"allow": true, "type": "c", "major": 226, "minor": -1, "access": "rwm"},
            {"allow": false, "type": "c", "major": 226, "minor": 7, "access": "rwm"},
        ])))
        .unwrap();
        for (program, kind, access, major, minor, expected) in [
            (&none, CHARACTER, READ | WRITE, 1, 3, true),
            (&none, CHARACTER, READ, 136, 9, true),
            (&none, CHARACTER, MKNOD, 99, 99, true),
            (&none, BLOCK, MKNOD, 8, 0, true),
            (&none, BLOCK, READ, 8, 0, false),
            (&none, CHARACTER, READ, 1, 1, false),
            (&none, CHARACTER, READ, 10, 229, false),
            (&docker, CHARACTER, READ, 1, 5, true),
            (&docker, CHARACTER, READ | WRITE, 10, 229, true),
            (&docker, CHARACTER, READ | MKNOD, 10, 229, false),
            (&docker, BLOCK, READ, 10, 229, false),
            (&docker, CHARACTER, READ, 226, 3, true),
            (&docker, CHARACTER, READ, 226, 7, false),
            (&docker, CHARACTER, READ, 227, 3, false),
        ] {
            assert_eq!(
                allowed(program, kind, access, major, minor),
                expected,
                "{kind} {access} {major}:{minor}"
            );
        }
    }

    #[test]
    fn a_privileged_container_needs_no_program() {
        assert!(program(&rules(json!([{"allow": true, "access": "rwm"}]))).is_none());
        assert!(
            program(&rules(json!([{"allow": false}, {"allow": true, "type": "a", "access": "rwm"}])))
                .is_none()
        );
        let taken_back =
            program(&rules(json!([{"allow": true}, {"allow": false, "access": "rwm"}]))).unwrap();
        assert!(!allowed(&taken_back, BLOCK, READ, 8, 0));
        let but_one = rules(json!([
            {"allow": true, "type": "b", "access": "rwm"}, {"allow": false, "type": "b", "major": 8, "access": "w"}
        ]));
        let but_one = program(&but_one).unwrap();
        assert!(allowed(&but_one, BLOCK, READ, 8, 0) && !allowed(&but_one, BLOCK, WRITE, 8, 0));
        assert!(allowed(&but_one, BLOCK, READ | WRITE, 9, 0));
    }
}
