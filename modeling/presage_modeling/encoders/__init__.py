"""Image encoders behind one interface: one module an encoder, networks from MONAI, selection and pooling ours."""
