//! Locks that renew themselves.

use std::time::Duration;

use tarn_client::Error;
use tonic::Status;

use crate::fake::{Fake, Fault, PATIENCE};

#[tokio::test]
async fn a_lock_is_held_renewed_and_released() {
    let (fake, _node, client) = Fake::alone().await;
    fake.fault("acquire_lease", Fault::DoThenFail(Status::unavailable("lost")));
    let lock = client.lock("db").holder("me").ttl(Duration::from_secs(1)).acquire().await.unwrap();
    assert_eq!((lock.name(), lock.is_lost()), ("db", false));
    let held = client.lock("db").acquire().await.map(drop).unwrap_err();
    assert_eq!(held.reason(), "LEASE_HELD");
    fake.until("the lock was renewed twice", |state| state.count("renew_lease") >= 2).await;
    let token = lock.token();
    lock.release().await.unwrap();
    let next = client.lock("db").acquire().await.unwrap();
    assert!(next.token() > token);
}

#[tokio::test]
async fn a_dropped_lock_goes_to_who_waits() {
    let (fake, _node, client) = Fake::alone().await;
    let lock = client.lock("db").acquire().await.unwrap();
    let waiting = tokio::spawn(client.lock("db").wait(PATIENCE).acquire());
    fake.until("the second has asked", |state| state.count("acquire_lease") >= 2).await;
    drop(lock);
    assert!(!waiting.await.unwrap().unwrap().is_lost());
}

#[tokio::test]
async fn a_lock_that_went_to_another_is_lost() {
    let (fake, _node, client) = Fake::alone().await;
    let lock = client.lock("db").ttl(Duration::from_secs(1)).acquire().await.unwrap();
    fake.with(|state| state.leases.get_mut("db").unwrap().token += 1);
    tokio::time::timeout(PATIENCE, lock.lost()).await.unwrap();
    assert!(lock.is_lost());
    assert_eq!(lock.release().await.unwrap_err().reason(), "STALE_TOKEN");
}

#[tokio::test]
async fn a_lock_that_cannot_be_renewed_is_lost_in_time() {
    let (_fake, node, client) = Fake::alone().await;
    let lock = client.with_deadline(Duration::from_millis(100)).lock("db").ttl(Duration::from_secs(1)).acquire().await.unwrap();
    drop(node);
    tokio::time::timeout(Duration::from_secs(5), lock.lost()).await.unwrap();
    assert!(matches!(lock.release().await.unwrap_err(), Error::Unavailable { .. }));
}
