//! Compares what was generated with a table of the protocol: every message, field number, type, service and call.

use std::collections::BTreeSet;

use protobuf::reflect::{FileDescriptor, MessageDescriptor, RuntimeFieldType, RuntimeType};

/// One line per fact, in the spelling of `describe` below. Numbers below 1000 are upstream's and never change.
const TABLE: &str = include_str!("wire.table");

fn files() -> [FileDescriptor; 6] {
    [
        protocols::agent::file_descriptor().clone(),
        protocols::confidential_data_hub::file_descriptor().clone(),
        protocols::csi::file_descriptor().clone(),
        protocols::health::file_descriptor().clone(),
        protocols::types::file_descriptor().clone(),
        protocols::wire_oci::file_descriptor().clone(),
    ]
}

fn type_name(runtime: &RuntimeType, package: &str) -> String {
    // A name of the same package is written without it, as in the table.
    let local = |full: &str| full.strip_prefix(&format!("{package}.")).unwrap_or(full).to_owned();
    match runtime {
        RuntimeType::I32 => "int32".into(),
        RuntimeType::I64 => "int64".into(),
        RuntimeType::U32 => "uint32".into(),
        RuntimeType::U64 => "uint64".into(),
        RuntimeType::Bool => "bool".into(),
        RuntimeType::String => "string".into(),
        RuntimeType::VecU8 => "bytes".into(),
        RuntimeType::Enum(e) => local(e.full_name()),
        RuntimeType::Message(m) => local(m.full_name()),
        other => panic!("{other:?} is not used by this protocol"),
    }
}

fn fields(message: &MessageDescriptor, package: &str, facts: &mut BTreeSet<String>) {
    let name = message.full_name();
    if message.fields().count() == 0 {
        facts.insert(format!("message {name}"));
    }
    for field in message.fields() {
        let kind = match field.runtime_field_type() {
            RuntimeFieldType::Singular(t) => match field.containing_oneof_including_synthetic() {
                None => type_name(&t, package),
                Some(oneof) if oneof.is_synthetic() => format!("optional {}", type_name(&t, package)),
                Some(oneof) => format!("oneof {}: {}", oneof.name(), type_name(&t, package)),
            },
            RuntimeFieldType::Repeated(t) => format!("repeated {}", type_name(&t, package)),
            RuntimeFieldType::Map(k, v) => {
                format!("map<{}, {}>", type_name(&k, package), type_name(&v, package))
            }
        };
        facts.insert(format!("field {name} {} {} {kind}", field.number(), field.name()));
    }
}

fn described() -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    for file in files() {
        let package = file.package().to_owned();
        for message in file.messages() {
            fields(&message, &package, &mut facts);
            for e in message.nested_enums() {
                facts
                    .extend(e.values().map(|v| format!("enum {} {} {}", e.full_name(), v.name(), v.value())));
            }
        }
        for e in file.enums() {
            facts.extend(e.values().map(|v| format!("enum {} {} {}", e.full_name(), v.name(), v.value())));
        }
        let local = |full: &str| {
            let full = full.trim_start_matches('.');
            full.strip_prefix(&format!("{package}.")).unwrap_or(full).to_owned()
        };
        for service in file.services() {
            let name = format!("{package}.{}", service.proto().name());
            for call in service.methods() {
                let proto = call.proto();
                let (request, reply) = (local(proto.input_type()), local(proto.output_type()));
                facts.insert(format!("rpc {name} {} {request} {reply}", proto.name()));
            }
        }
    }
    facts
}

#[test]
fn the_generated_protocol_is_the_tables() {
    let table: BTreeSet<String> = TABLE.lines().map(str::to_owned).collect();
    let generated = described();
    let missing: Vec<_> = table.difference(&generated).collect();
    // Additions of ours carry numbers from 1000.
    let ours = |fact: &&String| {
        fact.split(' ')
            .nth(2)
            .and_then(|number| number.parse::<u32>().ok())
            .is_some_and(|number| number >= 1000)
    };
    let foreign: Vec<_> = generated.difference(&table).filter(|fact| !ours(fact)).collect();
    assert!(
        missing.is_empty() && foreign.is_empty(),
        "missing: {missing:#?}\nnot in the table: {foreign:#?}"
    );
}

#[test]
fn the_counts_are_those_of_kata_4_1() {
    let files = files();
    let messages: usize = files.iter().map(|file| file.messages().count()).sum();
    let fields = TABLE.lines().filter(|line| line.starts_with("field ")).count();
    let values = TABLE.lines().filter(|line| line.starts_with("enum ")).count();
    let services: usize = files.iter().map(|file| file.services().count()).sum();
    let calls = TABLE.lines().filter(|line| line.starts_with("rpc ")).count();
    assert_eq!((messages, fields, values, services, calls), (121, 379, 10, 6, 48));
}
