//! Runs the scenarios with runc and with ours and prints what is the same and what is not; `tools/dev compare`.

use std::{process::ExitCode, time::Duration};

use integration::{
    compare::{Kind, Row, Session, all, compared, table},
    environment::Environment,
};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: compare [--only PATTERN]… [--runtime runc|kata|both] [--quick] [--all] [--list]";

struct Wanted {
    only: Vec<String>,
    kinds: Vec<Kind>,
    quick: bool,
    all: bool,
    list: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let wanted = match parse(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("compare: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let chosen = |title: &str| wanted.only.is_empty() || wanted.only.iter().any(|part| title.contains(part));
    let rows: Vec<_> =
        all().into_iter().filter(|row| chosen(&row.title()) && (row.quick || !wanted.quick)).collect();
    if wanted.list {
        rows.iter().for_each(|row| println!("{}", row.title()));
        return ExitCode::SUCCESS;
    }
    if rows.is_empty() {
        eprintln!("compare: no scenario has that in its name; --list names them");
        return ExitCode::from(2);
    }
    let Some(env) = Environment::find() else { return ExitCode::from(2) };
    let session = Session::begin(&env).await;
    let told = |kind: Kind, row: &Row, took: Duration| {
        eprintln!("{kind:?} {} {took:.1?}", row.title());
    };
    let outcomes = tokio::select! {
        outcomes = session.run(&rows, &wanted.kinds, told) => outcomes,
        // Dropping the session takes everything away.
        () = stopped() => return ExitCode::from(130),
    };
    let (text, failures) = table(&compared(&rows, &outcomes), wanted.all);
    print!("{text}");
    if failures > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Resolves when the program is asked to end.
async fn stopped() {
    let mut terminate = signal(SignalKind::terminate()).expect("handle a signal");
    let mut interrupt = signal(SignalKind::interrupt()).expect("handle a signal");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let both = vec![Kind::Runc, Kind::Ours];
    let mut wanted = Wanted { only: Vec::new(), kinds: both.clone(), quick: false, all: false, list: false };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--only" => wanted.only.push(args.next().ok_or("--only needs a part of a name")?),
            "--runtime" => {
                wanted.kinds = match args.next().as_deref() {
                    Some("runc") => vec![Kind::Runc],
                    Some("kata") => vec![Kind::Ours],
                    Some("both") => both.clone(),
                    _ => return Err("--runtime is runc, kata or both".into()),
                };
            }
            "--quick" => wanted.quick = true,
            "--all" => wanted.all = true,
            "--list" => wanted.list = true,
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(wanted)
}
