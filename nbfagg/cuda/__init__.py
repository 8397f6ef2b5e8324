"""NVIDIA GPUs: device primitives, the kernels made of them, and what brings a device array to them.

A call goes functions -> arrays (where it lies) -> plan (which kernels) -> launch -> driver. Kernels are
plain functions of primitives (`prims`), which tests/cudasim.py replaces by Python's own, and are compiled
by `build` for the GPU that is there or beforehand.

Where memory is not the limit, on paper (instructions for each logit against what 4.3 TB/s leave time for):

* Tokens of less than 128 bytes, in rows of up to 43 KB of the arithmetic (`short`), cost float32 and float64
  up to 1.03 times their budget with up to eight terms or a multiple of four, float16 1.13 times, bfloat16
  1.45 times (its exponentials reach further down); with any other number 1.15, 1.4 and 1.7 times. Rows of 1
  to 4 vectors add a thread's fixed cost, and logarithms take two exponentials a logit.
* Larger rows of tokens of up to 16 bytes are read twice, with an exponential each time (`pieces`,
  `short_pieces`): at one float32 term 1.1 times the budget. The second time is meant to find them in L2,
  in groups of rows of 12 MB; a larger row comes from memory twice.
* Other tokens in larger rows write (maximum, sum), 8 bytes each, which are read back: at 32 float32 terms
  that is an eighth of the traffic more, at 8 a half.
* Gradients of tokens of less than 128 bytes (`short_gradient`) cost float32 and float64 their budget, half
  precision 1.06 times, and a token 110 instructions besides: 14 for each of 8 terms, where float32 has 55.
* Packed rows of such tokens (`short_packed`) cost the same, up to 1.1 times that, and where tokens begin
  between multiples of 16 bytes up to 1.27 times; a row has eight threads at least, some 200 instructions
  each, and a block leaves room that longer rows would have filled. Rows of more than 40 KB of the arithmetic
  are read twice, the second time in L2 if they are few.
* Walks over other strides read number by number: half precision costs 1.03 times its budget there; with a
  mask, and in float32 and float64, they keep to it.
* Packed rows of longer tokens are finished by a block each: a row of a million by one multiprocessor.
* The gradient looks at a token twice, the second time in L2; a token split into cells is read twice.

Sums over a gradient are taken in float32, where the CPU takes float64: beyond 3.4e38 they are infinite.

Not shown, for want of a GPU:

* any time or bandwidth; the thresholds of `plan.Limits` are reasons, not measurements;
* that the driver takes the cubins and the parameters as they are packed (a stand-in driver did);
* the order of writes before the last block's ticket (fences and barriers are there by the rules of PTX's
  memory model, which the simulator, that runs one thread at a time, does not have);
* the hardware's 2**x in half precision (its documented bound, 2**-22, was used), rounding of bfloat16 by
  instructions, reads of 16 bytes at the very end of an allocation;
* CUDA graphs, several GPUs, other streams, autocast with PyTorch; CuPy's and Numba's own arrays (an array
  with the interface alone was tried, and in Dask's chunks a small stand-in for CuPy); the Triton peer of the
  benchmark; arrays of more than 2**31 numbers.
"""
