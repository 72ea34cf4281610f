"""Every English sentence and label of the page, in one place. Braces are filled in with str.format."""

TITLE = "SPF-Portrait Studio"
TAGLINE = "Teach a model something new, and change only what you asked for."
TOGGLE_THEME = "Light / dark"
KEYBOARD = "Keyboard"
CLOSE = "Close"
KEYS = [
    (("Ctrl", "Enter"), "Generate"), (("Esc",), "Cancel the generation"), (("Ctrl", "Z"), "Undo: the step before"),
    (("Ctrl", "Shift", "Z"), "Redo: the step after"), (("1",), "… to 6: open a tab"), (("?",), "This sheet"),
]
GUIDE_TITLE = "First time here? Two minutes:"
GUIDE = [
    "Press Generate: the original portrait and the one with a winter hat are drawn from the same seed.",
    "Press another phrase of the list to add it, or ×1 beside one to weaken it: each change becomes a step of the timeline.",
    "Choose 'Pollution' as the third picture to see what changed that should not have, and open Inspect to see why.",
    "Open Teach to let the model learn something new from pictures.",
]
GUIDE_TRY = "Draw the first portrait"
GUIDE_DONE = "Do not show this again"
TAB_PORTRAIT = "Portrait"
TAB_TEACH = "Teach"

# --- the form of the Portrait tab
MODEL = "Model"
CUSTOMIZATION = "Customization"
NO_CUSTOMIZATION = "None: the original model"
CUSTOMIZATION_MIX = "mix: {mix}"
CUSTOMIZATION_SHIPPED = "{name} (comes with the app)"
BASE_TEXT = "Base text"
BASE_TEXT_HINT = "The portrait as the original model draws it"
TARGETS = "Target phrases"
TARGETS_HINT = "What should change. Rewrite, switch off, or press the weight to change how strongly it acts."
TARGETS_ADD = "add a phrase, then Enter"
TARGETS_EDIT = "Target phrase"
TARGETS_REMOVE = "Remove"
TARGETS_WEIGHT = "Weight of"
TARGETS_ON = "Use"
TARGETS_UP = "Move up"
TARGETS_DOWN = "Move down"
TARGETS_KNOWN = "Taught to this customization:"
LIVE = "Draw every change of the phrases at once"
MORE = "More settings"
NEGATIVE = "Negative text"
NEGATIVE_HINT = "What neither portrait should show"
SEED = "Seed"
DICE = "Random"
STEPS = "Steps"
GUIDANCE = "Guidance"
MAP_STEPS = "Map steps"
PAIRS = "How many pairs"
HOLD = "Hold the original outside the map"
HOLD_HINT = ("Places that the map leaves unmarked stay as in the original; a higher number leaves the phrases more room. "
             "0 holds nothing, as the paper draws: best for a style.")
HELD_WIDE = ("What you asked for concerns {share:.0%} of the picture, as a style does, and the original is held in the rest. "
             "Set '" + HOLD + "' to 0 to let it reach everywhere.")
SMOOTHING = "Smoothing"
INTERVAL = "Map interval"
HOLD_START = "Original until"
FLOOR = "Held up to"
HEAL = "Healed from"
HOLD_MORE = ("The map that holds the original: how much of the earlier ones is kept in it, and how often it is measured; "
             "and for which share of the steps, 0 to 1, the whole portrait is still the original.")
HOLD_SEAMS = ("How strongly, 0 to 1, a place must answer to be let go; and from which share of the steps on the original model "
              "finishes what is held, so that seams close (1: never).")
SCHEDULER = "Sampler"
SCHEDULERS = {"": "The model's own", "ddim": "DDIM", "dpmpp_2m": "DPM++ 2M", "euler": "Euler", "unipc": "UniPC"}
WIDTH = "Width in pixels"
HEIGHT = "Height in pixels"
PRESET = "Saved settings"
PRESET_HINT = "Everything but the texts and the seed"
PRESET_NAME = "Save them as"
PRESET_SAVE = "Save"
PRESET_DELETE = "Delete"
PRESET_SAVED = "The settings are saved as '{name}'."
PRESET_DELETED = "'{name}' is deleted."
PRESET_DAMAGED = "the file of '{name}' is damaged; delete it, and save the settings again"
TOGETHER = "Drawn together"
TOGETHER_HINT = "One pair for each seed. Press one to go on with it."
TOGETHER_PAIR = "Seed {seed}: original and customized"
GENERATE = "Generate"
CANCEL = "Cancel"

# --- the pictures
ORIGINAL = "Original"
CUSTOMIZED = "Customized"
OVERLAY = "Map over customized"
CHANGE = "Change since step {step}"
CHANGE_NOTE = "What looks as before is pale."
POLLUTION = "Pollution: change outside the SFCM"
POLLUTION_NOTE = "Colours as in the scale below, up to a difference of one half; gray: inside the SFCM, where change is wanted."
PINNED_PANE = "Step {step}, pinned"
SAVE = "Save"
VIEW_MODE = "How to compare"
VIEW_MODES = {
    "side": ("Side by side", "All three pictures, with one zoom"),
    "slider": ("Slider", "The second picture right of the line, the first left of it"),
    "hover": ("Hover", "The second picture while the pointer is on it"),
    "flicker": ("Flicker", "Both pictures in turn"),
}
VIEW_SLOTS = {
    "a": ("First picture", "The original portrait appears here."),
    "b": ("Second picture", "The customized portrait appears here."),
    "c": ("Third picture", "The map of what may change appears here."),
}
SPLIT = "Position of the line"
ZOOM = "Zoom"
ZOOM_IN = "Zoom in"
ZOOM_OUT = "Zoom out"
ZOOM_RESET = "Whole picture"
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
CAPTION_SPREAD = "{caption} · no place stands out: it is spread over most of the picture"
MAP_EMPTY = "{caption} is empty: it is 0 everywhere, so no place is marked. The picture is shown without it."
MAP_NAN = "{caption} holds values that are not numbers and cannot be drawn; teach this customization again."
MAP_NONE = "No map was drawn. Set 'Map steps' to 1 or more and generate again."
MAP_LATER = "No map is drawn at this step."
MAP_BEFORE = "The map appears here while the portrait is drawn."

# --- what happens
STATUS_OPENING = "Looking for customizations …"
STATUS_READY = "Press Generate: original and customized portrait grow side by side from the same seed."
STATUS_QUEUED = "Waiting for its turn: one portrait is drawn at a time."
STATUS_WAITING = "Getting the model ready … the first portrait after the start takes longest."
STATUS_DRAWING = "Drawing: step {step} of {steps}, {seconds:.0f} s"
STATUS_LEFT = ", about {left:.0f} s left"
STATUS_PAIR = "Pair {number} of {count}. "
STATUS_PAIRS = "Pairs {number} to {last} of {count}, together. "
STATUS_UNFINISHED = "These pictures are unfinished."
CANCELLED = "Cancelled. The form is kept."
CUSTOMIZATION_GONE = (
    "'{name}', which this result was made with, does not exist any more; choose another one.")
CUSTOMIZATION_GONE_HERE = (
    "'{name}', which was chosen here, does not exist any more; the original model is chosen instead.")
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
TIMELINE = "Timeline"
TIMELINE_HINT = "Press a step to go back to it; a change from there starts a branch."
UNDO = "Undo"
UNDO_HINT = "Back to the step before (Ctrl+Z)"
REDO = "Redo"
REDO_HINT = "On to the step after (Ctrl+Shift+Z)"
CHAIN = "Save chain"
CHAIN_HINT = "One picture with every step from the first to this one"
PIN = "compare"
PINNED = "compared"
STEP_GONE = "The files of this step are gone or damaged; press Generate to draw it again."
STEP_SUMMARY = "{targets} · seed {seed}"
STEP_ORDER = "order: {targets}"
STEP_SAME = "drawn again"
STEP_NONE = "none"
STEP_FIELDS = {
    "seed": "seed {}", "customization": "customization {}", "model": "model {}", "num_inference_steps": "{} steps",
    "guidance_scale": "guidance {}", "negative_prompt": "negative text {}", "map_steps": "{} map steps",
    "scheduler": "sampler {}", "width": "width {}", "height": "height {}",
    "hold_gain": "hold {}", "hold.smoothing": "smoothing {}", "hold.interval": "maps every {} steps",
    "hold.start": "original until {}", "hold.floor": "held up to {}", "hold.heal": "healed from {}",
}
NO_TARGET = "base text only"
RESTORE = "Restore from a picture"
RESTORE_HINT = "Drop a portrait that this app saved: it carries its settings."
RESTORED = "The form is as it was for that picture. Press Generate to draw it."
RESTORED_WITHOUT = ("The form is as it was for that picture but for what this page has no field for ({fields}): "
                    "Generate draws it without.")

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
SOURCE_FOLDER = "On this computer"
FOLDER = "Picture set"
FOLDER_HINT = "Folders with a metadata.jsonl under 'datasets' of the data folder"
CAPTIONS = "Captions"
CAPTION_HEADERS = ["Picture", "Base text", "Target text"]
SAVE_CAPTIONS = "Save the captions"
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
BUDGETS = {
    "quick": "Quick: minutes on two CPU cores", "low-memory": "Low memory: slower, for small devices",
    "paper": "Paper: the published settings, for large models",
}
METHOD = "Method"
METHODS = {
    "spf": "SPF-Portrait: fine-tuning, then alignment", "standard": "Standard fine-tuning", "lora": "LoRA",
    "adalora": "AdaLoRA", "tokencompose": "TokenCompose (U-Net models)",
}
PLAN = "Plan time and memory"
PLANNING = "Measuring a few steps of every stage …"
PLAN_LINES = "{minutes} and {memory} GB of memory at the peak\n{pictures} pictures, {held_out} of them held out for validation"
PLAN_STAGE = "{stage}: {steps} steps of {batch} pictures, {pace:.2g} s each"
PLAN_MORE = "Samples, validation and checkpoints come on top."
START = "Start teaching"
STARTING = "Preparing the pictures …"

NO_RUN = "Nothing is being taught at the moment."
RUN_STATES = {
    "queued": "Starting '{name}'",
    "running": "Teaching '{name}'",
    "completed": "'{name}' is taught",
    "failed": "Teaching '{name}' failed",
    "cancelled": "Teaching '{name}' was cancelled",
    "interrupted": "Teaching '{name}' was interrupted",
    "paused": "Teaching '{name}' is paused",
}
REQUESTS = {"pause": "Pause", "save": "Save now", "sample": "Sample now", "cancel": "Cancel"}
ASKED = {
    "pause": "The run saves itself and pauses after the current step.",
    "save": "A checkpoint is written after the current step.",
    "sample": "A sample is drawn after the current step.",
    "cancel": "The run stops after the current step.",
}
RESUME = "Resume from the last checkpoint"
RUN_STAGES = {
    "": "Reading and encoding the pictures",
    "stage1": "Stage 1, fine-tuning",
    "stage2": "Stage 2, alignment under the SFCM",
}
RUN_RUNNING = "{stage}, step {step} of {total}"
RUN_ETA = "{eta} left"
RUN_NEW = "It is selected on the Portrait tab."
RUN_CANCELLING = "Cancelling after the current step …"
CURVE = "Loss terms, each as a share of its first value in the stage"
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
SAMPLE_OF = "Sample"
STAGES = "Stage 1 alone against stage 2"
STAGES_HINT = "The same text and seed: what alignment gave back."
STAGES_PICTURES = ["Original", "After stage 1, step {step}", "After stage 2, step {step}"]
SAMPLE_NONE = "The first sample picture comes after some steps."
LOG = "End of the log"
MINUTES = "about {minutes} min"
SECONDS_LEFT = "about {seconds} s"

# --- refusals. The first words of an error name a field of the schema; the page names the label beside it.
FIELDS = {
    "model": MODEL, "customization": CUSTOMIZATION, "base_text": BASE_TEXT, "target_texts": TARGETS,
    "target_weights": TARGETS, "negative_prompt": NEGATIVE, "picture": RESTORE, "path": "File", "answers": "Questions",
    "seed": SEED, "pairs": PAIRS, "scheduler": SCHEDULER, "width": WIDTH, "height": HEIGHT, "hold": HOLD,
    "smoothing": SMOOTHING, "interval": INTERVAL, "start": HOLD_START, "floor": FLOOR, "heal": HEAL,
    "num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "map_steps": MAP_STEPS, "name": NAME, "data": SOURCE,
    "pictures": SOURCE, "shared_base": SHARED_BASE, "phrase": PHRASE, "preset": BUDGET,
    "settings": PRESET, "settings_name": PRESET_NAME, "recipe": METHOD, "method": METHOD,
    "--attribute": ATTRIBUTE, "--count": COUNT, "count": COUNT,
}
NOT_A_NUMBER = "must be a number, for example {example} (got {value})"
EMPTY = "nothing"
NOT_WHOLE = "must be a whole number (got {value})"
NAME_TAKEN = "'{name}' exists already; choose another name, for example '{free}'"
EMPTY_PHRASE = "is empty; write what the pictures show, for example 'a winter hat'"
NO_PICTURES = "none were given; add some PNG, JPEG or WebP files, 16 to 64 work well"
NO_RESULT = "is not the id of a saved result; take one from /history, for example '2026-01-31/142501-7'"
NO_CHOICE = "nothing is chosen; choose one from the list"

# --- the Inspect tab
TAB_INSPECT = "Inspect"
INSPECT = {
    "empty": "Generate a portrait with at least one map step first; its maps are looked at here.",
    "mean": "mean of all {count} drawn steps", "step": "step {step}, t = {t}", "play": "Play", "pause": "Pause",
    "where": "at column {x}, row {y} of the map", "scrub": "Step of the maps; leftmost is the mean of all",
    "opacity": "Opacity", "threshold": "Hide below", "png": "Save this view as PNG", "npz": "Save all values (.npz)",
    "shared": "same colours (0 to 1) for every map",
    "own": "Each map has its own colours: dark is its lowest value, yellow its highest.",
    "ranking": "What acts here", "hover": "Move over the picture, or touch it.",
    "steps": "From M to the SFCM", "steps-hint": "What each phrase of the base text takes away, one after another.",
    "phrases": "Phrases of the base text",
    "phrases-hint": "Attention of each phrase; its relevance γ to the target says how much of it is kept. "
                    "Press one to see it beside the original model's.",
    "layers": "Attention of phrases in", "every-layer": "all layers", "own-model": "Customized model",
    "original-model": "Original model, same noisy picture",
    "targets": "Target phrases",
}
INSPECT_SOFT = "M"
INSPECT_WITHOUT = "− {text}"
INSPECT_SFCM = "SFCM"
INSPECT_SFCM_NOTE = "scaled to reach 1"
INSPECT_GAMMA = "γ = {gamma:.2f}"
INSPECT_IN_ORIGINAL = "{text}, original model"
INSPECT_EMPTY = "'{name}' is empty: it is 0 everywhere and at every step."
INSPECT_SPREAD = (
    "No place of the picture stands out for {names}: the attention is spread over most of it, as that of words for a style, a "
    "mood or the whole portrait is. A target phrase of this kind may act everywhere.")
INSPECT_WEAK = "'{name}' could not be located: its attention is nearly the same everywhere."

# --- the Library tab
TAB_LIBRARY = "Library"
LIBRARY_NONE = "There is no customization yet; teach one on the Teach tab."
LIBRARY_PICTURE = "A portrait made with {name}"
LIBRARY_NO_PICTURE = "no portrait yet"
LIBRARY_SHIPPED = "comes with the app"
LIBRARY_PHRASES = "Phrases"
LIBRARY_FROM = "Taught"
LIBRARY_SCORES = "Newest portrait"
LIBRARY_CUSTOMIZATIONS = "Customizations"
LIBRARY_MODELS = "Models"
LIBRARY_MODEL_NAME = "Name"
LIBRARY_MODEL_FAMILY = "Kind"
LIBRARY_MODEL_FAMILIES = {"unet": "U-Net", "mmdit": "MM-DiT"}
LIBRARY_MODEL_SIDE = "Pictures"
LIBRARY_MODEL_PIXELS = "{side} × {side} pixels"
LIBRARY_MODEL_STATE = "Files"
LIBRARY_MODEL_HERE = "on this computer"
LIBRARY_FACTS = {
    "recipe": "Method", "pictures": "Pictures", "validation_pictures": "Held out", "run": "Run", "seconds": "Seconds",
    "started_from": "Started from", "processes": "Processes", "stage1_steps": "Stage 1 steps",
    "stage1_batch_per_device": "Stage 1 batch per device", "stage1_global_batch": "Stage 1 batch",
    "stage2_steps": "Stage 2 steps", "stage2_kept_step": "Best step of stage 2",
    "stage2_batch_per_device": "Stage 2 batch per device", "stage2_global_batch": "Stage 2 batch"}
LIBRARY_MINE = "One of your own"
LIBRARY_MINE_HINT = "What comes with the app keeps its name and stays."
LIBRARY_NONE_OWN = "there is none of your own yet; teach one on the Teach tab, or import one below"
LIBRARY_NEW_NAME = "New name"
LIBRARY_RENAME = "Rename"
LIBRARY_DELETE = "Delete"
LIBRARY_UNDO = "Undo the deletion"
LIBRARY_RENAMED = "'{name}' is called '{wish}' now."
LIBRARY_DELETED = "'{name}' is deleted."
LIBRARY_DELETED_USED = "'{name}' is deleted. The Portrait tab used it, and uses the original model now."
LIBRARY_RESTORED = "'{name}' is back."
LIBRARY_MIX = "Mix"
LIBRARY_MIX_HINT = "Give some a weight, for example 0.7 and 0.5; the mix is then chosen on the Portrait tab."
LIBRARY_MIX_HEADERS = ["Customization", "Weight"]
LIBRARY_MIX_USE = "Use this mix"
LIBRARY_MIXED = "The Portrait tab uses {mix} now."
MIX_NONE = "has no weight yet; give at least one customization a number such as 0.7"
LIBRARY_MANAGE = "Rename or delete"
LIBRARY_FILES = "Files"
LIBRARY_EXPORT = "Any customization"
LIBRARY_EXPORT_KIND = "Format"
LIBRARY_EXPORT_KINDS = {"lora": "LoRA, for other tools", "delta": "Changed weights, for this app", "single-file": "Whole model"}
LIBRARY_EXPORT_GO = "Export"
LIBRARY_EXPORTED = "Exported file"
LIBRARY_IMPORT = "Import a .zip or .safetensors file"
LIBRARY_IMPORT_NAME = "Name; its own if left empty"
LIBRARY_IMPORT_GO = "Import"
LIBRARY_IMPORTED = "'{name}' is in the library now."

# --- the Blind comparison tab
TAB_COMPARE = "Blind comparison"
COMPARE_FIRST = "First contestant"
COMPARE_SECOND = "Second contestant"
FIELDS |= {"first": COMPARE_FIRST, "second": COMPARE_SECOND}
COMPARE_BEGIN = "Draw the pairs"
COMPARE_SESSION = "Go on with an earlier comparison"
COMPARE_NONE = (
    "Two customizations draw the same portraits; you judge them without knowing which is which. "
    "Choose both and press 'Draw the pairs', or go on with an earlier comparison.")
COMPARE_DRAWING = "Drawing the pairs"
COMPARE_READY = "{ready} of {count} portraits are ready"
COMPARE_LEFT = ", about {seconds} s left"
COMPARE_PAIR = "Pair {number} of {count}: the portrait should gain '{target}'"
COMPARE_DONE = "All pairs are answered"
COMPARE_PICTURES = ["Original", "Left", "Right"]
COMPARE_ANSWERS = ["Left", "Right", "No difference"]
COMPARE_NEXT = "Next pair"
COMPARE_CSV = "Answers as CSV"
COMPARE_OPEN = "one is still open; answer all three, 'No difference' is an answer, too"
COMPARE_COUNT = "must be a whole number from 1 to {most} (got {value})"
COMPARE_FEW = "there are fewer than two customizations of this model; teach one more, or import one in the Library"
COMPARE_SAME = "both contestants are the same; choose two different ones"
COMPARE_HEADS = ["Question", "{first} better", "{second} better", "No difference", "Rate of {first}", "95 % interval"]
QUESTIONS = {
    "consistency": "Which one keeps more of the original: person, pose, background, light?",
    "responsiveness": "Which one shows the target phrase better?",
    "preference": "Which one looks better to you?",
}

# --- the Results tab
TAB_RESULTS = "Results"
RESULTS_CHOICE = "Evaluation"
RESULTS_PUBLISHED = "published"
RESULTS_MINE = "mine"
RESULTS_FIGURES = "Figures"
RESULTS_BEHIND = "Behind the number"
RESULTS_HINT = ("Press a number to see pictures that it was measured on. "
                "By keyboard: Tab to a table, arrow keys to a number, Enter; Escape leads back to it.")
RESULTS_OPEN = "show its pictures"
RESULTS_FIGURE = "The pictures of this number are not on this computer; this figure shows the same evaluation."
RESULTS_NO_PICTURES = "The pictures of this number are not on this computer; run 'python -m spf evaluate' with its configuration."
RESULTS_PAIRS = "{method} · {target}"
RESULTS_PAIRS_HINT = "Pairs that the number was measured on: the original left, the customized portrait right."
RESULTS_BY_TARGET = "By target: "  # headings as the tables of `evaluate` have them
RESULTS_BASE = "Base text alone"
RESULTS_NONE = "No evaluation was found. 'python -m spf evaluate CONFIG' writes one."

TABS = (TAB_PORTRAIT, TAB_INSPECT, TAB_TEACH, TAB_LIBRARY, TAB_COMPARE, TAB_RESULTS)  # in their order
