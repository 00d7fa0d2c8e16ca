use super::*;
use crate::error::Kind;
use proptest::prelude::*;

/// A backup of the source "a", complete, not verified, started at this time; its id says when.
fn at(time: &str) -> Candidate {
    let at: Timestamp = time.parse().unwrap();
    candidate(at, 0)
}

fn candidate(at: Timestamp, n: usize) -> Candidate {
    Candidate {
        id: format!("{}-{n:08}", at.strftime("%Y%m%dT%H%M%SZ")).parse().unwrap(),
        at,
        source: Some("a".to_owned()),
        is_good: true,
        proof: None,
        needs: Vec::new(),
        needed_by: Vec::new(),
        locked: None,
    }
}

fn now() -> Timestamp {
    "2027-01-10T00:00:00Z".parse().unwrap()
}

fn zone(name: &str) -> TimeZone {
    clock::zone(name).unwrap()
}

fn decided(keep: &Keep, zone: &TimeZone, candidates: &[Candidate]) -> Vec<Verdict> {
    decide(keep, zone, now(), candidates).unwrap()
}

/// Which of `times` (each a backup of its own) are kept, in their order.
#[track_caller]
fn check_kept(keep: Keep, zone_name: &str, times: &[&str], expected: &[&str]) {
    let candidates: Vec<_> = times.iter().map(|time| at(time)).collect();
    let verdicts = decided(&keep, &zone(zone_name), &candidates);
    let kept: Vec<_> = times.iter().zip(verdicts).filter(|(_, verdict)| verdict.is_kept()).map(|(t, _)| *t).collect();
    assert_eq!(kept, expected, "{keep:?} in {zone_name}");
}

#[test]
fn what_a_hidden_backup_needs_is_kept_and_so_is_what_that_needs() {
    let full = at("2026-11-01T00:00:00Z");
    let first = Candidate { needs: vec![full.id.clone()], ..at("2026-11-02T00:00:00Z") };
    let newest = at("2026-11-04T00:00:00Z");
    let hidden = at("2026-11-03T00:00:00Z").id;
    let keep = Keep { last: 1, ..Keep::default() };
    let unneeded = decided(&keep, &TimeZone::UTC, &[full.clone(), first.clone(), newest.clone()]);
    assert_eq!(unneeded.iter().map(Verdict::is_kept).collect::<Vec<_>>(), [false, false, true]);
    let needed = Candidate { needed_by: vec![hidden.clone()], ..first };
    let verdicts = decided(&keep, &TimeZone::UTC, &[full, needed.clone(), newest]);
    assert_eq!(verdicts[1].reasons, BTreeSet::from([Reason::NeededBy(hidden)]));
    assert_eq!(verdicts[0].reasons, BTreeSet::from([Reason::NeededBy(needed.id)]));
}

#[test]
fn each_rule_keeps_the_newest_of_its_last_periods_that_have_one() {
    let last = Keep { last: 2, ..Keep::default() };
    check_kept(
        last,
        "UTC",
        &["2026-11-01T00:00:00Z", "2026-11-01T00:00:01Z", "2026-11-01T00:00:02Z"],
        &["2026-11-01T00:00:01Z", "2026-11-01T00:00:02Z"],
    );
    let hourly = Keep { hourly: 2, ..Keep::default() };
    check_kept(
        hourly,
        "UTC",
        &["2026-11-01T01:10:00Z", "2026-11-01T02:10:00Z", "2026-11-01T02:50:00Z", "2026-11-01T09:00:00Z"],
        &["2026-11-01T02:50:00Z", "2026-11-01T09:00:00Z"],
    );
    // Days without a backup do not count: a job that stood still for a week loses nothing.
    let daily = Keep { daily: 3, ..Keep::default() };
    check_kept(
        daily,
        "UTC",
        &[
            "2026-11-01T02:00:00Z",
            "2026-11-02T02:00:00Z",
            "2026-11-02T14:00:00Z",
            "2026-11-09T02:00:00Z",
            "2026-11-10T02:00:00Z",
        ],
        &["2026-11-02T14:00:00Z", "2026-11-09T02:00:00Z", "2026-11-10T02:00:00Z"],
    );
    // 2026-11-15 is a Sunday: a week ends with it.
    let weekly = Keep { weekly: 2, ..Keep::default() };
    check_kept(
        weekly,
        "UTC",
        &["2026-11-14T02:00:00Z", "2026-11-15T23:59:59Z", "2026-11-16T00:00:00Z", "2026-11-22T12:00:00Z"],
        &["2026-11-15T23:59:59Z", "2026-11-22T12:00:00Z"],
    );
    let monthly = Keep { monthly: 2, ..Keep::default() };
    check_kept(
        monthly,
        "UTC",
        &["2026-09-30T02:00:00Z", "2026-10-31T02:00:00Z", "2026-11-01T02:00:00Z", "2026-11-30T02:00:00Z"],
        &["2026-10-31T02:00:00Z", "2026-11-30T02:00:00Z"],
    );
    let yearly = Keep { yearly: 2, ..Keep::default() };
    check_kept(
        yearly,
        "UTC",
        &["2024-12-31T23:00:00Z", "2025-06-01T00:00:00Z", "2026-01-01T00:00:00Z", "2026-12-31T23:59:59Z"],
        &["2025-06-01T00:00:00Z", "2026-12-31T23:59:59Z"],
    );
}

#[test]
fn the_week_around_new_year_is_one_week() {
    // 2026-12-28 is a Monday, 2027-01-03 the Sunday after it.
    check_kept(
        Keep { weekly: 1, ..Keep::default() },
        "UTC",
        &["2026-12-27T12:00:00Z", "2026-12-31T12:00:00Z", "2027-01-01T12:00:00Z", "2027-01-03T12:00:00Z"],
        &["2027-01-03T12:00:00Z"],
    );
}

#[test]
fn days_are_those_of_the_zone_also_when_clocks_change() {
    let daily = Keep { daily: 2, ..Keep::default() };
    // In Berlin it is the next day already.
    let times = ["2026-07-01T21:30:00Z", "2026-07-01T22:30:00Z", "2026-07-02T10:00:00Z"];
    check_kept(daily, "UTC", &times, &["2026-07-01T22:30:00Z", "2026-07-02T10:00:00Z"]);
    check_kept(daily, "Europe/Berlin", &times, &["2026-07-01T21:30:00Z", "2026-07-02T10:00:00Z"]);
    // The day with 25 hours, 2026-10-25, from 22:00 UTC of the 24th to 23:00 UTC of the 25th.
    let long = ["2026-10-24T21:59:59Z", "2026-10-24T22:00:00Z", "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z"];
    check_kept(
        Keep { daily: 3, ..Keep::default() },
        "Europe/Berlin",
        &long,
        &["2026-10-24T21:59:59Z", "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z"],
    );
    // The day with 23 hours, 2026-03-29, from 23:00 UTC of the 28th to 22:00 UTC of the 29th.
    let short = ["2026-03-28T22:59:59Z", "2026-03-28T23:00:00Z", "2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z"];
    check_kept(
        Keep { daily: 3, ..Keep::default() },
        "Europe/Berlin",
        &short,
        &["2026-03-28T22:59:59Z", "2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z"],
    );
    // Two o'clock comes twice, and is two hours.
    check_kept(
        Keep { hourly: 2, ..Keep::default() },
        "Europe/Berlin",
        &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"],
        &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"],
    );
}

fn reasons(verdict: &Verdict) -> Vec<String> {
    verdict.reasons.iter().map(ToString::to_string).collect()
}

#[test]
fn the_reason_says_the_period_as_a_person_writes_it() {
    let keep = Keep { last: 1, hourly: 1, daily: 1, weekly: 1, monthly: 1, yearly: 1 };
    let mut backup = at("2026-11-20T02:00:00Z");
    backup.proof = Some(Proof::Restored);
    backup.locked = Some("legal hold".to_owned());
    let verdicts = decided(&keep, &zone("Europe/Berlin"), &[backup]);
    assert_eq!(
        reasons(&verdicts[0]),
        [
            "last",
            "hourly (2026-11-20 03:00 +01:00)",
            "daily (2026-11-20)",
            "weekly (week of 2026-11-16)",
            "monthly (2026-11)",
            "yearly (2026)",
            "the last good one",
            "the last one verified by its stored bytes",
            "the last one verified by its contents",
            "the last one verified by a restore",
            "locked: legal hold",
        ]
    );
}

const LAST_ONE: Keep = Keep { last: 1, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };

#[test]
fn an_incomplete_backup_never_counts_and_never_displaces_a_complete_one() {
    let good = at("2026-11-01T00:00:00Z");
    let holes: Vec<_> =
        (2..9).map(|day| Candidate { is_good: false, ..at(&format!("2026-11-0{day}T00:00:00Z")) }).collect();
    let all: Vec<_> = std::iter::once(good).chain(holes).collect();
    let verdicts = decided(&LAST_ONE, &TimeZone::UTC, &all);
    assert_eq!(reasons(&verdicts[0]), ["last", "the last good one"]);
    // The newest of its like is the newest there is: it stays as well, and the others go.
    let kept: Vec<_> = verdicts.iter().map(Verdict::is_kept).collect();
    assert_eq!(kept, [true, false, false, false, false, false, false, true]);
}

#[test]
fn backups_of_another_source_never_displace_those_of_the_first() {
    let of = |source: Option<&str>, time| Candidate { source: source.map(str::to_owned), ..at(time) };
    let all = [
        of(Some("old"), "2026-11-01T00:00:00Z"),
        of(Some("old"), "2026-11-02T00:00:00Z"),
        of(Some("new"), "2026-11-03T00:00:00Z"),
        of(Some("new"), "2026-11-04T00:00:00Z"),
        of(None, "2026-11-05T00:00:00Z"),
    ];
    let kept: Vec<_> = decided(&LAST_ONE, &TimeZone::UTC, &all).iter().map(Verdict::is_kept).collect();
    assert_eq!(kept, [false, true, false, true, true]);
}

#[test]
fn the_last_verified_one_stays_for_each_depth_unless_a_later_verification_failed() {
    let proven = |proof, time| Candidate { proof, ..at(time) };
    let all = [
        proven(Some(Proof::Restored), "2026-11-01T00:00:00Z"),
        proven(Some(Proof::Restored), "2026-11-02T00:00:00Z"),
        proven(Some(Proof::Contents), "2026-11-03T00:00:00Z"),
        proven(Some(Proof::Stored), "2026-11-04T00:00:00Z"),
        // Its last verification failed: it proves nothing, and counts no more.
        Candidate { is_good: false, ..at("2026-11-05T00:00:00Z") },
        proven(None, "2026-11-06T00:00:00Z"),
    ];
    let verdicts = decided(&LAST_ONE, &TimeZone::UTC, &all);
    assert!(!verdicts[0].is_kept());
    assert_eq!(reasons(&verdicts[1]), ["the last one verified by a restore"]);
    assert_eq!(reasons(&verdicts[2]), ["the last one verified by its contents"]);
    assert_eq!(reasons(&verdicts[3]), ["the last one verified by its stored bytes"]);
    assert_eq!(reasons(&verdicts[5]), ["last", "the last good one"]);
}

#[test]
fn what_a_kept_one_needs_is_kept_with_what_that_needs() {
    let full = at("2026-11-01T00:00:00Z");
    let first = Candidate { needs: vec![full.id.clone()], ..at("2026-11-02T00:00:00Z") };
    let second = Candidate { needs: vec![first.id.clone()], ..at("2026-11-03T00:00:00Z") };
    let idle = at("2026-11-02T12:00:00Z");
    let all = [full.clone(), first.clone(), idle, second.clone()];
    let verdicts = decided(&LAST_ONE, &TimeZone::UTC, &all);
    assert_eq!(reasons(&verdicts[0]), [format!("needed by {}", first.id)]);
    assert_eq!(reasons(&verdicts[1]), [format!("needed by {}", second.id)]);
    assert!(!verdicts[2].is_kept());
    // Backups that need one another, or one that is gone, end nothing.
    let gone: BackupId = "20200101T000000Z-00000000".parse().unwrap();
    let round = [
        Candidate { needs: vec![second.id.clone(), gone, full.id.clone()], ..full.clone() },
        Candidate { needs: vec![full.id.clone()], ..second },
    ];
    assert!(decided(&LAST_ONE, &TimeZone::UTC, &round).iter().all(Verdict::is_kept));
}

#[test]
fn what_is_locked_stays_with_what_it_needs() {
    let full = at("2026-11-01T00:00:00Z");
    let locked = Candidate {
        needs: vec![full.id.clone()],
        locked: Some("compliance retention until 2027-01-01T00:00:00Z".to_owned()),
        ..at("2026-11-02T00:00:00Z")
    };
    let verdicts = decided(&LAST_ONE, &TimeZone::UTC, &[full, locked, at("2026-11-03T00:00:00Z")]);
    assert!(verdicts.iter().all(Verdict::is_kept));
    assert_eq!(reasons(&verdicts[1]), ["locked: compliance retention until 2027-01-01T00:00:00Z"]);
}

#[test]
fn a_backup_of_the_future_stops_it_and_a_clock_that_is_a_little_ahead_does_not() {
    let ahead = |by: SignedDuration| candidate(now() + by, 0);
    assert!(decide(&LAST_ONE, &TimeZone::UTC, now(), &[ahead(CLOCK_TOLERANCE)]).is_ok());
    let second = SignedDuration::from_secs(1);
    let error = decide(&LAST_ONE, &TimeZone::UTC, now(), &[ahead(CLOCK_TOLERANCE + second)]).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.message().contains("is of the future"), "{error:?}");
}

#[test]
fn rules_that_keep_nothing_decide_nothing() {
    let error = decide(&Keep::default(), &TimeZone::UTC, now(), &[at("2026-11-01T00:00:00Z")]).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
}

prop_compose! {
    fn a_keep()(last in 0..4_u32, hourly in 0..4_u32, daily in 0..8_u32, weekly in 0..5_u32, monthly in 0..5_u32, yearly in 0..3_u32) -> Keep {
        let keep = Keep { last, hourly, daily, weekly, monthly, yearly };
        if keep.is_nothing() { LAST_ONE } else { keep }
    }
}

/// Up to 40 backups within some years, many of them close together, with whatever they can have.
fn some_backups() -> impl Strategy<Value = Vec<Candidate>> {
    let hours = prop_oneof![0..72_i64, 0..24 * 60_i64, 0..24 * 365 * 3_i64];
    let one = (hours, 0..3_u8, 0..4_u8, 0..8_u8, 0..10_u8, proptest::collection::vec(0..40_usize, 0..2));
    proptest::collection::vec(one, 1..40).prop_map(|backups| {
        let all: Vec<Candidate> = backups
            .iter()
            .enumerate()
            .map(|(n, (hours, source, good, proof, locked, _))| Candidate {
                source: (*source > 0).then(|| source.to_string()),
                is_good: *good > 0,
                proof: match proof {
                    _ if *good == 0 => None,
                    0 => Some(Proof::Stored),
                    1 => Some(Proof::Contents),
                    2 => Some(Proof::Restored),
                    _ => None,
                },
                locked: (*locked == 0).then(|| "legal hold".to_owned()),
                ..candidate(now() - SignedDuration::from_hours(*hours), n)
            })
            .collect();
        let ids: Vec<BackupId> = all.iter().map(|backup| backup.id.clone()).collect();
        let needs = backups.iter().map(|(.., needs)| needs.iter().filter_map(|n| ids.get(*n).cloned()).collect());
        all.into_iter().zip(needs).map(|(backup, needs)| Candidate { needs, ..backup }).collect()
    })
}

fn kept(keep: &Keep, zone: &TimeZone, backups: &[Candidate]) -> Vec<Candidate> {
    let verdicts = decided(keep, zone, backups);
    backups.iter().zip(verdicts).filter(|(_, verdict)| verdict.is_kept()).map(|(backup, _)| backup.clone()).collect()
}

fn newest(backups: &[Candidate], wanted: impl Fn(&&Candidate) -> bool) -> Option<&Candidate> {
    backups.iter().filter(wanted).max_by_key(|backup| (backup.at, backup.id.clone()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_there_is_the_last_good_and_the_last_verified_of_every_source_stay(
        keep in a_keep(), backups in some_backups(),
    ) {
        let zone = zone("Europe/Berlin");
        let kept = kept(&keep, &zone, &backups);
        for source in backups.iter().map(|backup| &backup.source) {
            let good = newest(&backups, |b| b.source == *source && b.is_good);
            prop_assert!(good.is_none_or(|good| kept.contains(good)));
            for proof in Proof::ALL {
                let proven = newest(&backups, |b| b.source == *source && b.is_good && b.proof >= Some(proof));
                prop_assert!(proven.is_none_or(|proven| kept.contains(proven)));
            }
        }
        for backup in &kept {
            let needed = backups.iter().filter(|other| backup.needs.contains(&other.id));
            prop_assert!(needed.into_iter().all(|needed| kept.contains(needed)));
        }
        prop_assert!(backups.iter().filter(|backup| backup.locked.is_some()).all(|locked| kept.contains(locked)));
    }

    #[test]
    fn pruning_again_removes_nothing_more(keep in a_keep(), backups in some_backups()) {
        let zone = zone("America/New_York");
        let once = kept(&keep, &zone, &backups);
        prop_assert_eq!(kept(&keep, &zone, &once), once);
    }

    #[test]
    fn keeping_more_never_keeps_less(keep in a_keep(), more in a_keep(), backups in some_backups()) {
        let zone = TimeZone::UTC;
        let sum = Keep {
            last: keep.last + more.last,
            hourly: keep.hourly + more.hourly,
            daily: keep.daily + more.daily,
            weekly: keep.weekly + more.weekly,
            monthly: keep.monthly + more.monthly,
            yearly: keep.yearly + more.yearly,
        };
        let all = kept(&sum, &zone, &backups);
        prop_assert!(kept(&keep, &zone, &backups).iter().all(|backup| all.contains(backup)));
    }

    #[test]
    fn neither_the_order_nor_what_does_not_count_changes_what_is_kept(keep in a_keep(), backups in some_backups()) {
        let zone = TimeZone::UTC;
        let there = kept(&keep, &zone, &backups);
        let mut turned = backups.clone();
        turned.reverse();
        let mut back = kept(&keep, &zone, &turned);
        back.reverse();
        prop_assert_eq!(&there, &back);
        // Without those that are not good, or of another source, no fewer are kept than with them.
        let alone: Vec<_> = backups.iter().filter(|b| b.is_good && b.source.is_none()).cloned().collect();
        prop_assert!(kept(&keep, &zone, &alone).iter().all(|backup| there.contains(backup)));
    }
}
