//! The short selection of the scenarios that are compared with runc; `tools/dev compare` runs all.

use integration::{
    compare::{Kind, Session, all, compared, table},
    environment::Environment,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_containerd_sees_what_it_sees_with_runc() {
    let Some(env) = Environment::find() else { return };
    let rows: Vec<_> = all().into_iter().filter(|row| row.quick).collect();
    let session = Session::begin(&env).await;
    let outcomes = session
        .run(&rows, &[Kind::Runc, Kind::Ours], |kind, row, took| {
            eprintln!("{kind:?} {} {took:.1?}", row.title());
        })
        .await;
    let (text, failures) = table(&compared(&rows, &outcomes), false);
    assert_eq!(failures, 0, "\n{text}");
}
