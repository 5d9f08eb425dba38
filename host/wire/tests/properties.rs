//! Properties of the parser that hold for all messages and all bytes.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use stepbox_wire::{
    ElementType, ErrorCode, Failure, FrameLimits, FramePrefix, KeyStatus, MAX_DIMENSIONS, OptimizerStatus,
    PREFIX_BYTES, Request, Response, ServerStatus, TensorType, WorkerStatus, decode_request, decode_response,
    encode_request, encode_response, fuzz_frame,
};

fn key() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9._/ äß]{1,60}"
}

fn tensor() -> impl Strategy<Value = TensorType> {
    vec(0_u64..200, 0..=MAX_DIMENSIONS).prop_map(|shape| TensorType { element: ElementType::F32, shape })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        any::<u16>().prop_map(|protocol| Request::Hello { protocol }),
        Just(Request::Register),
        (key(), tensor()).prop_map(|(key, tensor)| Request::Init { key, tensor }),
        (key(), any::<u64>(), tensor()).prop_map(|(key, round, tensor)| Request::Push { key, round, tensor }),
        (key(), any::<u64>()).prop_map(|(key, version)| Request::Pull { key, version }),
        any::<u64>().prop_map(|number| Request::Barrier { number }),
        Just(Request::Leave),
        (option::of(-1e300..1e300), vec((".{0,20}", ".{0,20}"), 0..10))
            .prop_map(|(learning_rate, hyperparameters)| Request::Deploy { learning_rate, hyperparameters }),
        any::<bool>().prop_map(|weights_digest| Request::Status { weights_digest }),
    ]
}

fn optimizer() -> impl Strategy<Value = OptimizerStatus> {
    (".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}").prop_map(|(name, version, publisher, digest)| OptimizerStatus {
        name,
        version,
        publisher,
        digest,
    })
}

fn status() -> impl Strategy<Value = ServerStatus> {
    let worker = (".{0,20}", any::<u32>(), any::<bool>()).prop_map(|(identity, rank, connected)| WorkerStatus {
        identity,
        rank,
        connected,
    });
    let key = (key(), tensor(), any::<u64>(), any::<u32>()).prop_map(|(key, tensor, version, slices)| KeyStatus {
        key,
        tensor,
        version,
        slices,
    });
    (
        (".{0,20}", any::<u64>(), option::of(optimizer()), option::of((optimizer(), any::<u64>()))),
        (vec(worker, 0..5), vec(key, 0..5), any::<u32>(), any::<u64>(), 0.0..1e12, any::<u64>(), option::of(".{0,64}")),
    )
        .prop_map(
            |(
                (software, uptime_seconds, optimizer, pending_optimizer),
                (workers, keys, shard_threads, updates, mean_update_microseconds, refusals, weights_digest),
            )| ServerStatus {
                software,
                uptime_seconds,
                optimizer,
                pending_optimizer,
                workers,
                keys,
                shard_threads,
                updates,
                mean_update_microseconds,
                refusals,
                weights_digest,
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
        Just(Response::BarrierPassed),
        Just(Response::Left),
        (optimizer(), any::<u64>(), any::<bool>()).prop_map(|(optimizer, from_round, state_kept)| Response::Deployed {
            optimizer,
            from_round,
            state_kept
        }),
        status().prop_map(|status| Response::Status(Box::new(status))),
        (code, ".{0,80}").prop_map(|(code, message)| Response::Failed(Failure { code, message })),
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
