use stepbox_optimizer_tests::{admit, context, values};
use stepbox_sandbox::{Limits, LocalTensor, LocalTraining, TensorDescription};
#[test]
fn probe() {
    for (name, r, c) in [("soap", 256u64, 256u64), ("soap", 512, 512), ("soap", 512, 16), ("shampoo", 512, 512), ("shampoo", 1024, 1024), ("shampoo", 1024, 8)] {
        for rank1 in [false, true] {
        let comp = admit(name, Limits::default());
        let settings = comp.configure(None, &[]).unwrap();
        let n = (r * c) as usize;
        let t = LocalTensor { description: TensorDescription { name: "t".into(), shape: vec![r, c], ..Default::default() }, settings, parameters: values(n, 1) };
        let mut tr = LocalTraining::new(&comp, vec![t], 1 << 20).unwrap();
        let mut times = vec![];
        for round in 1..=10 {
            let g: Vec<f32> = if rank1 { let (a, b) = (values(r as usize, 5), values(c as usize, 6)); a.iter().flat_map(|x| b.iter().map(move |y| x * y)).collect() } else { values(n, 100 + round as u32) };
            let s = std::time::Instant::now();
            if let Err(e) = tr.round(&context(round, 0.01), &[&g]) { println!("{name} {r}x{c} rank1 {rank1} round {round}: {e}"); break; }
            times.push(s.elapsed().as_millis());
        }
        println!("{name} {r}x{c} rank1 {rank1}: {times:?} ms");
        }
    }
}
