use std::time::Instant;
use stepbox_benches::native::*;
fn main() {
    for n in [1 << 16, 1 << 24] {
        let mk = |s: f32| {
            let mut x = Numbers::zeros(n).unwrap();
            x.floats_mut().iter_mut().enumerate().for_each(|(i, x)| *x = ((i * 7919) % 1000) as f32 * s + 0.001);
            x
        };
        let g = [mk(0.001), mk(0.002), mk(-0.001), mk(0.003)];
        let (mut p, mut m, mut v) = (mk(0.01), Numbers::zeros(n).unwrap(), Numbers::zeros(n).unwrap());
        let mut t = [vec![], vec![]];
        let reps = ((1 << 26) / n).clamp(7, 300);
        for k in 0..reps {
            for kind in 0..2 {
                let r = Round::new(1e-3, k as i32 + 1);
                let gs = [g[0].floats(), g[1].floats(), g[2].floats(), g[3].floats()];
                let s = Instant::now();
                if kind == 0 {
                    fused(r, gs, p.floats_mut(), m.floats_mut(), v.floats_mut())
                } else {
                    step_sse2(r, gs[0], p.floats_mut(), m.floats_mut(), v.floats_mut())
                }
                t[kind].push(s.elapsed().as_nanos() as f64 / n as f64);
            }
        }
        for t in &mut t {
            t.sort_by(f64::total_cmp);
        }
        print!("{n}: fused {:.3} step sse2 {:.3}   ", t[0][t[0].len() / 2], t[1][t[1].len() / 2]);
    }
    println!();
}
