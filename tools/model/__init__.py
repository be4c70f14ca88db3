"""A loaded model looked at by Keras' public interface: its parts, and a picture of them."""
