"""The other codecs of the FocalCodec paper, each with the methods of `tokenizer.codec.Codec`.

`auto.load_codec` imports the module of a codec when it is needed. Import a class from its module: `codecs.bigcodec`,
`semanticodec`, `speechtokenizer`, `stable_codec`, `transformers_codecs` (EnCodec, DAC, Mimi, X-Codec2 and NeuCodec),
`ts3_codec`, `wavlm_km` and `wavtokenizer`.
"""
