//! What the sandbox is held against: the mean of all workers' gradients and AdamW, fused, in place, in native code for
//! the widest instructions of this machine.
//!
//! The arithmetic is that of `optimizers/adamw`, so that both ends with the same bits. The loops are autovectorised
//! within functions compiled for AVX-512 (or AVX2), which `pulp` selects at run time.

use memmap2::{Advice, MmapMut};
use pulp::{Arch, WithSimd};

/// Elements that are worked on while they are in the first-level cache.
const TILE: usize = 1024;

/// What an AdamW round has in common; as in `optimizers/adamw`.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    beta1: f32,
    gradient_share: f32,
    beta2: f32,
    square_share: f32,
    epsilon: f32,
    decay: f32,
    rate: f32,
    root_correction: f32,
}

impl Round {
    /// Of AdamW with its default hyperparameters.
    pub fn new(learning_rate: f32, step: i32) -> Self {
        let rate = f64::from(learning_rate);
        let (beta1, beta2, weight_decay) = (0.9_f64, 0.999_f64, 0.01_f64);
        Self {
            beta1: beta1 as f32,
            gradient_share: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            square_share: (1.0 - beta2) as f32,
            epsilon: 1e-8,
            decay: (rate * weight_decay) as f32,
            rate: (rate / (1.0 - beta1.powi(step))) as f32,
            root_correction: (1.0 / (1.0 - beta2.powi(step)).sqrt()) as f32,
        }
    }
}

/// Numbers in memory of its own, on huge pages where the machine has them.
#[derive(Debug)]
pub struct Numbers(MmapMut, usize, usize);

impl Numbers {
    /// Zeros.
    ///
    /// # Errors
    /// There is no memory.
    pub fn zeros(elements: usize) -> std::io::Result<Self> {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static N: AtomicUsize = AtomicUsize::new(0);
        let k = N.fetch_add(1, Ordering::Relaxed) % 8;
        let stagger: usize = std::env::var("STAGGER").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
        let off = k * stagger;
        let map = MmapMut::map_anon(elements.max(1) * 4 + off)?;
        let _ = map.advise(Advice::HugePage);
        Ok(Self(map, off, elements * 4))
    }
    /// To read.
    pub fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0[self.1..][..self.2])
    }
    /// To write.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0[self.1..][..self.2])
    }
    /// off
    pub fn offset(&self) -> usize {
        self.1
    }
    /// Bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

struct Fused<'a, const N: usize> {
    round: Round,
    gradients: [&'a [f32]; N],
    p: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

#[inline(always)]
fn element(round: &Round, p: f32, g: f32, m: f32, v: f32) -> (f32, f32, f32) {
    let mean = round.beta1 * m + round.gradient_share * g;
    let variance = round.beta2 * v + round.square_share * g * g;
    let denominator = variance.sqrt() * round.root_correction + round.epsilon;
    (p - (round.decay * p + round.rate * mean / denominator), mean, variance)
}

impl<const N: usize> WithSimd for Fused<'_, N> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Self { round, gradients, p, m, v } = self;
        let n = p.len();
        let (m, v) = (&mut m[..n], &mut v[..n]);
        let gradients = gradients.map(|g| &g[..n]);
        let scale = 1.0 / N as f32;
        for i in 0..n {
            let mut g = gradients[0][i];
            for other in &gradients[1..] {
                g += other[i];
            }
            let (a, b, c) = element(&round, p[i], g * scale, m[i], v[i]);
            p[i] = a;
            m[i] = b;
            v[i] = c;
        }
    }
}

struct Tiled<'a, const N: usize>(Fused<'a, N>);

impl<const N: usize> WithSimd for Tiled<'_, N> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Fused { round, gradients, p, m, v } = self.0;
        let mut mean = [0.0_f32; TILE];
        let scale = 1.0 / N as f32;
        for (tile, ((p, m), v)) in p.chunks_mut(TILE).zip(m.chunks_mut(TILE)).zip(v.chunks_mut(TILE)).enumerate() {
            let n = p.len();
            let (m, v) = (&mut m[..n], &mut v[..n]);
            let gs = gradients.map(|g| &g[tile * TILE..][..n]);
            let mean = &mut mean[..n];
            for i in 0..n {
                let mut g = gs[0][i];
                for other in &gs[1..] {
                    g += other[i];
                }
                mean[i] = g * scale;
            }
            for i in 0..n {
                let (a, b, c) = element(&round, p[i], mean[i], m[i], v[i]);
                p[i] = a;
                m[i] = b;
                v[i] = c;
            }
        }
    }
}

/// One loop.
pub fn fused<const N: usize>(round: Round, gradients: [&[f32]; N], p: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    Arch::new().dispatch(Fused { round, gradients, p, m, v });
}
/// Tiles.
pub fn tiled<const N: usize>(round: Round, gradients: [&[f32]; N], p: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    Arch::new().dispatch(Tiled(Fused { round, gradients, p, m, v }));
}
/// SSE2.
pub fn fused_sse2<const N: usize>(round: Round, gradients: [&[f32]; N], p: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    Fused { round, gradients, p, m, v }.with_simd(pulp::Scalar::new());
}
/// step only
pub fn step_sse2(round: Round, gradient: &[f32], p: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    Fused { round, gradients: [gradient], p, m, v }.with_simd(pulp::Scalar::new());
}
