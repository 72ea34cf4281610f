"""Every English sentence and label of the page, in one place. Braces are filled in with str.format."""

TITLE = "SPF-Portrait Studio"
TAGLINE = "Teach a model something new, and change only what you asked for."
TOGGLE_THEME = "Light / dark"
TAB_PORTRAIT = "Portrait"
TAB_TEACH = "Teach"

# --- the form of the Portrait tab
MODEL = "Model"
CUSTOMIZATION = "Customization"
NO_CUSTOMIZATION = "None: the original model"
CUSTOMIZATION_SHIPPED = "{name} (comes with the app)"
BASE_TEXT = "Base text"
BASE_TEXT_HINT = "The portrait as the original model draws it"
TARGETS = "Target phrases"
TARGETS_HINT = "What should change. Click a phrase to rewrite it."
TARGETS_ADD = "add a phrase, then Enter"
TARGETS_EDIT = "Target phrase"
TARGETS_REMOVE = "Remove"
TARGETS_KNOWN = "Taught to this customization:"
SEED = "Seed"
DICE = "Random"
STEPS = "Steps"
GUIDANCE = "Guidance"
MAP_STEPS = "Map steps"
GENERATE = "Generate"
CANCEL = "Cancel"

# --- the pictures
ORIGINAL = "Original"
CUSTOMIZED = "Customized"
OVERLAY = "Map over customized"
MAP_CHOICE = "Map"
MAP_SFCM = "SFCM: where the target may act"
MAP_SOFT = "M: where the two models differ"
MAP_PHRASE = "Base phrase: {text}"
MAP_PHRASE_GAMMA = "Base phrase: {text} (relevance γ = {gamma:.2f})"
MAP_TARGET = "Target phrase: {text}"
MAP_OF_STEP = "Step of the map"
MAP_MEAN = "Mean of all drawn steps"
OPACITY = "Opacity"
LEGEND = "Map value"
LEGEND_ALT = "Colour scale of the map from 0, dark violet, to 1, yellow"
CAPTION_STEP = "{name}, step {step} of {steps} (t = {timestep})"
CAPTION_MEAN = "{name}, mean of {count} drawn steps (t = {first} to {last})"
CAPTION_ONE = "{name}, the one drawn step {step} of {steps} (t = {timestep})"
CAPTION_RANGE = "{caption} · lowest {low:.2f}, mean {mean:.2f}, highest {high:.2f}"
MAP_EMPTY = "{caption} is empty: it is 0 everywhere, so no place is marked. The picture is shown without it."
MAP_NAN = "{caption} holds values that are not numbers and cannot be drawn; teach this customization again."
MAP_NONE = "No map was drawn. Set 'Map steps' to 1 or more and generate again."
MAP_BEFORE = "The map appears here while the portrait is drawn."

# --- what happens
STATUS_OPENING = "Looking for customizations …"
STATUS_READY = "Press Generate: original and customized portrait grow side by side from the same seed."
STATUS_WAITING = "Getting the model ready … the first portrait after the start takes longest."
STATUS_DRAWING = "Drawing: step {step} of {steps}, {seconds:.0f} s"
STATUS_UNFINISHED = "These pictures are unfinished."
CANCELLED = "Cancelled. The form is kept."
CUSTOMIZATION_GONE = (
    "Customization: '{name}', which this result was made with, does not exist any more; choose another one.")
PHRASES_DROPPED = "Too long for the text encoder: left out of the base text were {phrases}."
NOT_SAVED = "The result is shown but could not be saved ({reason}); free some space on the disk."
UNEXPECTED = "Something went wrong inside the app. The form is kept; the server's log names the cause."
METRICS = {
    "mean_absolute_difference": ("difference {:.1%}", "Mean difference of the two pictures, all pixels"),
    "outside_sfcm": ("outside the SFCM {:.1%}", "Mean difference where the SFCM is below one half: what should stay"),
    "clip_target_margin": (
        "target gain {:+.3f}", "CLIP: how much better the full text than the base text fits the customized portrait"),
    "clip_image_similarity": ("likeness {:.3f}", "CLIP: similarity of the two pictures, 1 is equal"),
}
METRIC_UNDEFINED = "n/a"
SECONDS = "{total:.1f} s (original {original:.1f}, customized {customized:.1f}, maps {maps:.1f})"
SEED_USED = "seed {seed}"
STRIP = "This session"
STRIP_HINT = "Click a picture to bring it back, form included."
STRIP_CAPTION = "{targets} · seed {seed}"
STRIP_NO_TARGET = "base text only"

# --- the Teach tab
TEACH_STEPS = [
    "Choose pictures that all show one new thing: an example set, or 16 to 64 of your own.",
    "Stage 1 teaches the phrase. Stage 2 aligns the model with the original everywhere the phrase should not act.",
    "Watch the losses and samples here. Training goes on if this page is closed, and is found again when it opens.",
    "The result appears under 'Customization' on the Portrait tab.",
]
SOURCE = "Pictures"
SOURCE_RENDERED = "Example set"
SOURCE_UPLOAD = "My own"
ATTRIBUTE = "Example set"
ATTRIBUTE_HINT = "Drawn on this computer; the model has never seen it"
COUNT = "How many pictures"
UPLOAD = "PNG, JPEG or WebP"
PHRASE = "Target phrase"
PHRASE_HINT = "What all the pictures show and the model should learn"
PHRASE_PLACEHOLDER = "a winter hat"
SHARED_BASE = "Base text for all pictures"
SHARED_BASE_HINT = "What else they show, without the target phrase"
SHARED_BASE_DEFAULT = "a portrait of a person"
TABLE = "Describe pictures one by one"
TABLE_HINT = "A line that stays empty uses the base text for all pictures."
TABLE_HEADERS = ["Picture", "Base text"]
NAME = "Name of the customization"
NAME_HINT = "Lower-case letters, digits and dashes"
BUDGET = "Budget"
BUDGETS = {"quick": "Quick: minutes on two CPU cores", "paper": "Paper: the published settings, for large models"}
START = "Start teaching"
STARTING = "Preparing the pictures …"

NO_RUN = "Nothing is being taught at the moment."
RUN_STATES = {
    "queued": "Starting '{name}'",
    "running": "Teaching '{name}'",
    "paused": "Teaching '{name}' is paused",
    "completed": "'{name}' is taught",
    "failed": "Teaching '{name}' failed",
    "cancelled": "Teaching '{name}' was cancelled",
    "interrupted": "Teaching '{name}' was interrupted",
}
RUN_STAGES = {
    "": "Reading and encoding the pictures",
    "stage1": "Stage 1, fine-tuning",
    "stage2": "Stage 2, alignment under the SFCM",
}
RUN_RUNNING = "{stage}, step {step} of {total}"
RUN_ETA = "{eta} left"
RUN_NEW = "It is selected on the Portrait tab."
RUN_CANCELLING = "Cancelling after the current step …"
CURVE = "Loss terms, each as a share of its first value"
CURVE_STEP = "step"
CURVE_VALUE = "share"
CURVE_TERM = "term"
TERMS = {
    "diff_loss": "diffusion",
    "text_loss": "text alignment",
    "fine_loss": "fine alignment",
    "enhanced_loss": "enhancement",
    "validation_loss": "all terms on held-out pictures",
}
LOSS = "{term} {value:.3g}"
SAMPLE = "Latest sample, step {step}: original, customized, SFCM over customized"
SAMPLE_NONE = "The first sample picture comes after some steps."
LOG = "End of the log"
MINUTES = "about {minutes} min"
SECONDS_LEFT = "about {seconds} s"

# --- refusals. The first words of an error name a field of the schema; the page names the label beside it.
FIELDS = {
    "model": MODEL, "customization": CUSTOMIZATION, "base_text": BASE_TEXT, "target_texts": TARGETS, "seed": SEED,
    "num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "map_steps": MAP_STEPS, "name": NAME, "data": SOURCE,
    "pictures": SOURCE, "shared_base": SHARED_BASE, "phrase": PHRASE, "preset": BUDGET,
    "--attribute": ATTRIBUTE, "--count": COUNT, "count": COUNT,
}
NOT_A_NUMBER = "must be a number, for example {example} (got {value})"
EMPTY = "nothing"
NOT_WHOLE = "must be a whole number (got {value})"
NAME_TAKEN = "'{name}' exists already; choose another name, for example '{free}'"
EMPTY_PHRASE = "is empty; write what the pictures show, for example 'a winter hat'"
NO_PICTURES = "none were given; add some PNG, JPEG or WebP files, 16 to 64 work well"
NO_CHOICE = "nothing is chosen; choose one from the list"
