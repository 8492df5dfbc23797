use super::*;
use crate::store::session::{Access, Session, Transaction};
use crate::store::tests::new_ca;

fn in_a_transaction<T>(work: impl FnOnce(&mut Transaction<'_>) -> Result<T>) -> T {
    let (temporary, _ca) = new_ca();
    let mut session =
        Session::connect(&(&temporary.path().join("ca")).into(), Access::Write).unwrap();
    session.transaction(Access::Write, work).unwrap()
}

#[test]
fn a_parameter_is_bound_by_its_number_and_not_by_its_place() {
    let row = in_a_transaction(|transaction| {
        transaction.only("SELECT $2, $1, $2", values!["first", 2_u32])
    });
    let read = (row.get(0), row.get::<String>(1), row.get(2));
    assert_eq!(
        (read.0.unwrap(), read.1.unwrap(), read.2.unwrap()),
        (2_i64, "first".to_owned(), 2_u64)
    );
}

#[test]
fn a_statement_gets_as_many_values_as_it_has_parameters() {
    in_a_transaction(|transaction| {
        for count in [0, 1, 3] {
            let values = &values![1_u32, 2_u32, 3_u32][..count];
            transaction.query("SELECT $1, $2", values).unwrap_err();
        }
        Ok(())
    });
}

#[test]
fn what_a_column_holds_is_not_bent_into_another_type() {
    let row = in_a_transaction(|transaction| {
        let none: Option<&str> = None;
        transaction.only(
            "SELECT $1, $2, $3, $4",
            values!["text", -1_i64, &[1_u8, 2], none],
        )
    });
    assert!(row.get::<i64>(0).is_err());
    assert!(row.get::<Vec<u8>>(0).is_err());
    assert!(row.get::<u64>(1).is_err());
    assert!(row.get::<bool>(1).is_err());
    assert!(row.get::<[u8; 3]>(2).is_err());
    assert_eq!(row.get::<[u8; 2]>(2).unwrap(), [1, 2]);
    assert!(row.get::<String>(3).is_err());
    assert_eq!(row.get::<Option<String>>(3).unwrap(), None);
    assert!(row.get::<Option<i64>>(0).is_err());
    assert!(row.get::<i64>(4).is_err(), "there is no such column");
}
