"""The demonstration: four ways to train on real data (`experiment`), and what it leaves behind
(`report`).
"""

#: What `keras-grow demo` writes into its folder.
RESULTS_FILE, PLOT_FILE, MODEL_FILE = "results.json", "loss.png", "grown.keras"
FILES = (RESULTS_FILE, PLOT_FILE, MODEL_FILE)
