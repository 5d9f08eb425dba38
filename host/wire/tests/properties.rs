//! Properties of the parser that hold for all messages and all bytes.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use stepbox_wire::{
    AuditStatus, DeployOptions, DeploymentStatus, ElementType, ErrorCode, Failure, FrameLimits, FramePrefix, Group,
    KeyStatus, LogStatus, MAX_DIMENSIONS, OptimizerStatus, PREFIX_BYTES, Page, Protection, Request, Response,
    RevokedOptimizer, Schedule, ScheduleKind, ScheduleStatus, ServerStatus, Standing, SubmissionStatus, TensorFilter,
    TensorType, WorkerStatus, decode_request, decode_response, encode_request, encode_response, fuzz_frame,
};

fn key() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9._/ äß]{1,60}"
}

fn tensor() -> impl Strategy<Value = TensorType> {
    vec(0_u64..200, 0..=MAX_DIMENSIONS).prop_map(|shape| TensorType { element: ElementType::F32, shape })
}

fn rows() -> impl Strategy<Value = TensorType> {
    vec(0_u64..200, 1..=MAX_DIMENSIONS).prop_map(|shape| TensorType { element: ElementType::F32, shape })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (any::<u16>(), "([a-z0-9][a-z0-9_-]{0,31})?").prop_map(|(protocol, job)| Request::Hello { protocol, job }),
        Just(Request::Register),
        (key(), tensor(), vec("[a-z]{1,20}", 0..4)).prop_map(|(key, tensor, tags)| Request::Init { key, tensor, tags }),
        (key(), any::<u64>(), tensor(), option::of(-1e30_f32..1e30))
            .prop_map(|(key, round, tensor, loss)| Request::Push { key, round, tensor, loss }),
        (key(), any::<u64>(), any::<bool>()).prop_map(|(key, version, evaluation)| Request::Pull {
            key,
            version,
            evaluation
        }),
        (key(), any::<u64>(), rows(), option::of(-1e30_f32..1e30))
            .prop_map(|(key, round, values, loss)| Request::PushRows { key, round, values, loss }),
        (key(), any::<u64>(), any::<u64>()).prop_map(|(key, version, rows)| Request::PullRows { key, version, rows }),
        any::<u64>().prop_map(|number| Request::Barrier { number }),
        Just(Request::Leave),
        options().prop_map(Request::Deploy),
        (option::of(-1e300..1e300), schedule())
            .prop_map(|(learning_rate, schedule)| Request::SetSchedule { learning_rate, schedule }),
        any::<bool>().prop_map(|weights_digest| Request::Status { weights_digest }),
        option::of(digest()).prop_map(|to| Request::Rollback { to }),
        Just(Request::Submit),
        (digest(), options()).prop_map(|(digest, options)| Request::Activate { digest, options }),
        option::of(digest()).prop_map(|after| Request::Submissions { after }),
        option::of(key()).prop_map(|after| Request::Keys { after }),
        option::of(any::<u32>()).prop_map(|after| Request::Workers { after }),
        digest().prop_map(|digest| Request::Withdraw { digest }),
    ]
}

fn digest() -> impl Strategy<Value = String> {
    "[0-9a-f]{64}"
}

fn submission() -> impl Strategy<Value = SubmissionStatus> {
    (optimizer(), any::<u64>(), ".{0,20}", any::<u64>()).prop_map(|(component, bytes, submitted_by, submitted_at)| {
        SubmissionStatus { component, bytes, submitted_by, submitted_at }
    })
}

fn deployment() -> impl Strategy<Value = DeploymentStatus> {
    let standing = prop_oneof![Just(Standing::None), Just(Standing::Trusted), Just(Standing::Paused)];
    let revoked = (optimizer(), "[a-z-]{1,20}", ".{0,40}").prop_map(|(optimizer, reason, message)| RevokedOptimizer {
        optimizer,
        reason,
        message,
    });
    (standing, vec(revoked, 0..2), vec(optimizer(), 0..4), option::of(".{0,40}")).prop_map(
        |(standing, revoked, previous, trust_error)| DeploymentStatus { standing, revoked, previous, trust_error },
    )
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let kind = prop_oneof![
        Just(ScheduleKind::Constant),
        (any::<u64>(), 0.0..1.0).prop_map(|(step_rounds, gamma)| ScheduleKind::Step { step_rounds, gamma }),
        (any::<u64>(), 0.0..1.0).prop_map(|(rounds, final_ratio)| ScheduleKind::Cosine { rounds, final_ratio }),
        (any::<u64>(), 0.0..1.0).prop_map(|(rounds, final_ratio)| ScheduleKind::Linear { rounds, final_ratio }),
        (any::<u64>(), 0.0..1.0, 1.0..1e9, 1.0..1e9).prop_map(|(rounds, pct_start, div_factor, final_div_factor)| {
            ScheduleKind::OneCycle { rounds, pct_start, div_factor, final_div_factor }
        }),
        Just(ScheduleKind::InverseSquareRoot),
    ];
    (any::<u64>(), kind).prop_map(|(warmup_rounds, kind)| Schedule { warmup_rounds, kind })
}

fn schedule_status() -> impl Strategy<Value = ScheduleStatus> {
    (-1e300..1e300, schedule(), any::<u64>()).prop_map(|(learning_rate, schedule, from_round)| ScheduleStatus {
        learning_rate,
        schedule,
        from_round,
    })
}

fn options() -> impl Strategy<Value = DeployOptions> {
    let values = || vec((".{0,20}", ".{0,20}"), 0..4);
    let axes = || option::of(any::<u32>());
    let filter = (vec(".{0,20}", 0..3), vec(".{0,20}", 0..3), axes(), axes())
        .prop_map(|(keys, tags, minimum_axes, maximum_axes)| TensorFilter { keys, tags, minimum_axes, maximum_axes });
    let group = (".{0,20}", filter, values(), 0.0..10.0).prop_map(
        |(name, tensors, hyperparameters, learning_rate_multiplier)| Group {
            name,
            tensors,
            hyperparameters,
            learning_rate_multiplier,
        },
    );
    (option::of(-1e300..1e300), option::of(schedule()), values(), vec(group, 0..3)).prop_map(
        |(learning_rate, schedule, hyperparameters, groups)| DeployOptions {
            learning_rate,
            schedule,
            hyperparameters,
            groups,
        },
    )
}

fn optimizer() -> impl Strategy<Value = OptimizerStatus> {
    (".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}").prop_map(|(name, version, publisher, digest)| OptimizerStatus {
        name,
        version,
        publisher,
        digest,
    })
}

fn audit() -> impl Strategy<Value = AuditStatus> {
    (any::<u64>(), ".{0,64}", any::<u64>(), option::of(".{0,20}"), option::of(".{0,20}"))
        .prop_map(|(line, head, lost, failing, damaged)| AuditStatus { line, head, lost, failing, damaged })
}

fn log() -> impl Strategy<Value = LogStatus> {
    (any::<u64>(), option::of(".{0,20}")).prop_map(|(lost_lines, failing)| LogStatus { lost_lines, failing })
}

fn protection() -> impl Strategy<Value = Protection> {
    (".{0,20}", any::<bool>(), ".{0,20}").prop_map(|(name, active, detail)| Protection { name, active, detail })
}

fn worker_status() -> impl Strategy<Value = WorkerStatus> {
    (".{0,20}", any::<u32>(), any::<bool>()).prop_map(|(identity, rank, connected)| WorkerStatus {
        identity,
        rank,
        connected,
    })
}

fn key_status() -> impl Strategy<Value = KeyStatus> {
    (key(), tensor(), any::<u64>(), any::<u32>(), ".{0,20}")
        .prop_map(|(key, tensor, version, slices, group)| KeyStatus { key, tensor, version, slices, group })
}

fn page<Entry: std::fmt::Debug>(entry: impl Strategy<Value = Entry>) -> impl Strategy<Value = Page<Entry>> {
    (vec(entry, 0..4), any::<bool>()).prop_map(|(entries, more)| Page { entries, more })
}

fn status() -> impl Strategy<Value = ServerStatus> {
    (
        (".{0,20}", any::<u64>(), "[a-z]{1,20}", option::of(optimizer()), option::of((optimizer(), any::<u64>()))),
        (option::of(0.0..1.0), option::of(schedule_status()), option::of(schedule_status())),
        (option::of(audit()), option::of(log()), vec(protection(), 0..3), vec(".{0,20}", 0..3)),
        (
            vec(worker_status(), 0..5),
            vec(key_status(), 0..5),
            any::<u32>(),
            any::<u64>(),
            0.0..1e12,
            any::<u64>(),
            option::of(".{0,64}"),
        ),
        deployment(),
    )
        .prop_map(
            |(
                (software, uptime_seconds, job, optimizer, pending_optimizer),
                (learning_rate, schedule, pending_schedule),
                (audit, log, protections, warnings),
                (workers, keys, shard_threads, updates, mean_update_microseconds, refusals, weights_digest),
                deployment,
            )| ServerStatus {
                software,
                uptime_seconds,
                job,
                optimizer,
                pending_optimizer,
                learning_rate,
                schedule,
                pending_schedule,
                workers,
                keys,
                shard_threads,
                updates,
                mean_update_microseconds,
                refusals,
                weights_digest,
                deployment,
                audit,
                log,
                protections,
                warnings,
            },
        )
}

fn response() -> impl Strategy<Value = Response> {
    let code = prop_oneof![Just(ErrorCode::Malformed), Just(ErrorCode::WrongRound), Just(ErrorCode::Internal)];
    prop_oneof![
        (any::<u16>(), ".{0,20}").prop_map(|(protocol, identity)| Response::Welcome { protocol, identity }),
        (any::<u32>(), any::<u32>(), any::<u64>())
            .prop_map(|(rank, workers, barrier)| { Response::Registered { rank, workers, barrier } }),
        (any::<u64>(), any::<bool>()).prop_map(|(version, created)| Response::Initialized { version, created }),
        any::<bool>().prop_map(|repeated| Response::Pushed { repeated }),
        (any::<u64>(), tensor()).prop_map(|(version, tensor)| Response::Pulled { version, tensor }),
        (any::<u64>(), rows()).prop_map(|(version, tensor)| Response::PulledRows { version, tensor }),
        Just(Response::BarrierPassed),
        Just(Response::Left),
        (optimizer(), any::<u64>(), any::<bool>(), schedule_status(), vec((".{0,20}", any::<u64>()), 0..4)).prop_map(
            |(optimizer, from_round, state_kept, schedule, groups)| Response::Deployed {
                optimizer,
                from_round,
                state_kept,
                schedule,
                groups,
            }
        ),
        schedule_status().prop_map(Response::ScheduleSet),
        status().prop_map(|status| Response::Status(Box::new(status))),
        (code, ".{0,80}", option::of("[a-z-]{1,20}")).prop_map(|(code, message, reason)| Response::Failed(Failure {
            code,
            message,
            reason
        })),
        submission().prop_map(|submission| Response::Submitted(Box::new(submission))),
        page(submission()).prop_map(Response::Submissions),
        page(key_status()).prop_map(Response::Keys),
        page(worker_status()).prop_map(Response::Workers),
        Just(Response::Withdrawn),
    ]
}

proptest! {
    #[test]
    fn requests_survive_the_wire(id: u64, request in request(), body_bytes in 0..=FrameLimits::default().body_bytes) {
        let frame = encode_request(id, &request, body_bytes);
        let (prefix, header) = frame.split_first_chunk::<PREFIX_BYTES>().expect("a frame has a prefix");
        let prefix = FramePrefix::decode(prefix, &FrameLimits::default()).expect("within the limits");
        prop_assert_eq!(prefix.header_bytes as usize, header.len());
        prop_assert_eq!(prefix.body_bytes, body_bytes);
        prop_assert_eq!(decode_request(header), Ok((id, request)));
    }

    #[test]
    fn responses_survive_the_wire(id: u64, response in response()) {
        let frame = encode_response(id, &response, 0);
        prop_assert_eq!(decode_response(&frame[PREFIX_BYTES..]), Ok((id, response)));
    }

    #[test]
    fn every_truncation_is_refused(id: u64, request in request(), response in response()) {
        let header = encode_request(id, &request, 0).split_off(PREFIX_BYTES);
        for cut in 0..header.len() {
            prop_assert!(decode_request(&header[..cut]).is_err());
        }
        let header = encode_response(id, &response, 0).split_off(PREFIX_BYTES);
        for cut in 0..header.len() {
            prop_assert!(decode_response(&header[..cut]).is_err());
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in vec(any::<u8>(), 0..400)) {
        fuzz_frame(&bytes);
        // Past the magic, with lengths that are believed.
        let prefix = FramePrefix { header_bytes: bytes.len() as u32, body_bytes: 0 };
        fuzz_frame(&[prefix.encode().as_slice(), &bytes].concat());
    }
}
