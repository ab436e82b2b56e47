"""A GGUF file of random Q4_0 weights in a named shape, for llama.cpp beside `llm-convert --random`.

Blocks are made as they are stored: random codes, one scale for all, the embedding (which is the head too) in Q6_K, as
llama-quantize chooses. There is no vocabulary, so only programs that need none can run it."""
import math

SHAPES = {  # architecture, layers, width, ffn, heads, kv heads, head size, vocabulary, context, epsilon, RoPE base
    "qwen3-0.6b": ("qwen3", 28, 1024, 3072, 16, 8, 128, 151936, 40960, 1e-6, 1e6),
    "llama-3.2-1b": ("llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 1e-5, 5e5),
}


def write(path, shape):
    import numpy
    from gguf import GGMLQuantizationType, GGUFWriter
    kind, layers, width, ffn, heads, kv_heads, head, vocab, context, epsilon, base = SHAPES[shape]
    random = numpy.random.default_rng(1)

    def q4_0(rows, cols):  # f16 scale, 16 bytes of codes 0 .. 15, minus 8: root mean square 4.63
        blocks = random.integers(0, 256, (rows, cols // 32, 18), dtype=numpy.uint8)
        blocks[:, :, :2] = numpy.array([1 / math.sqrt(cols) / 4.63], numpy.float16).view(numpy.uint8)
        return blocks.reshape(rows, -1)

    def q6_k(rows, cols):  # 192 bytes of codes, 16 scales (all 1), f16 scale: root mean square 18.5
        blocks = random.integers(0, 256, (rows, cols // 256, 210), dtype=numpy.uint8)
        blocks[:, :, 192:208] = 1
        blocks[:, :, 208:] = numpy.array([1 / math.sqrt(cols) / 18.5], numpy.float16).view(numpy.uint8)
        return blocks.reshape(rows, -1)

    w = GGUFWriter(path, kind)
    w.add_name(shape)
    w.add_block_count(layers)
    w.add_context_length(context)
    w.add_embedding_length(width)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_key_length(head)
    w.add_value_length(head)
    w.add_layer_norm_rms_eps(epsilon)
    w.add_rope_freq_base(base)
    w.add_rope_dimension_count(head)
    w.add_vocab_size(vocab)
    w.add_tokenizer_model("none")
    w.add_file_type(2)

    def matrix(name, rows, cols):
        w.add_tensor(name + ".weight", q4_0(rows, cols), raw_dtype=GGMLQuantizationType.Q4_0)

    def norm(name, size):
        w.add_tensor(name + ".weight", numpy.ones(size, numpy.float32))

    w.add_tensor("token_embd.weight", q6_k(vocab, width), raw_dtype=GGMLQuantizationType.Q6_K)
    for layer in range(layers):
        at = f"blk.{layer}."
        norm(at + "attn_norm", width)
        matrix(at + "attn_q", heads * head, width)
        matrix(at + "attn_k", kv_heads * head, width)
        matrix(at + "attn_v", kv_heads * head, width)
        matrix(at + "attn_output", width, heads * head)
        if kind == "qwen3":
            norm(at + "attn_q_norm", head)
            norm(at + "attn_k_norm", head)
        norm(at + "ffn_norm", width)
        matrix(at + "ffn_gate", ffn, width)
        matrix(at + "ffn_up", ffn, width)
        matrix(at + "ffn_down", width, ffn)
    norm("output_norm", width)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
