-- The contract between the rooms: every table of cache/<dataset>/, its units, its key and its limits.
-- adapt/tables checks against this file what either package writes, and what it reads.
-- The Parquet metadata of every file carries `earshot.schema` (sha256 of its table's statement here) and,
-- where a list of labels gives a column its order, that list's sha256.

-- One row a clip, made by `scan`.  label_id counts from 0 in the order of cache/<dataset>/labels.txt.
CREATE TABLE clips (
    clip_id        VARCHAR NOT NULL PRIMARY KEY,    -- the path without its ending, '/' between parts, unless the recipe names the clip
    path           VARCHAR NOT NULL,                -- relative to data/videos/<dataset>; line breaks, control characters and bytes that are no
                                                    -- UTF-8 are escaped, as in caf\xe9.mp4, and such a clip is failed
    split          VARCHAR NOT NULL CHECK (split IN ('train', 'val', 'test')),
    label_id       INTEGER NOT NULL CHECK (label_id >= 0),
    label          VARCHAR NOT NULL,
    label_ids      INTEGER[] CHECK (list_contains(label_ids, label_id)),  -- of a clip of several classes all, label_id among them; else NULL
    status         VARCHAR NOT NULL CHECK (status IN ('ok', 'failed')),  -- failed: no picture can be read, or not the file at all
    duration_s     DOUBLE CHECK (duration_s >= 0),  -- of the video track, from its first frame's start to its last one's end; NULL where failed
    n_frames       INTEGER CHECK (n_frames >= 0),   -- that a player shows; NULL where failed
    reader         VARCHAR CHECK (reader IN ('decord', 'pyav')),  -- what reads its frames (adapt/video/decoding); NULL where failed
    content_sha256 VARCHAR CHECK (length(content_sha256) = 64),  -- NULL where the file cannot be read, or its name is escaped
    sound_path     VARCHAR,                         -- the file whose sound is the clip's, escaped and relative as path; NULL: path itself
    sound_sha256   VARCHAR CHECK (length(sound_sha256) = 64),  -- of sound_path; NULL also where that cannot be read
    error          VARCHAR,                         -- why it failed, one line; of a clip that is ok, why sound_path cannot be read
    CHECK (content_sha256 IS NOT NULL OR (status = 'failed' AND error IS NOT NULL))
);

-- One row a clip, made by `decode`: how its sound track was read.  n_samples, duration_s, rms_dbfs and peak_dbfs are those of the sound
-- that was given out: of one channel, and after decode.perturb.  silent: level_dbfs, less what perturb took, is below silent_below_dbfs.
CREATE TABLE audio (
    clip_id        VARCHAR NOT NULL PRIMARY KEY,
    status         VARCHAR NOT NULL CHECK (status IN ('ok', 'no_track', 'silent', 'truncated', 'failed')),
    sample_rate    INTEGER NOT NULL CHECK (sample_rate > 0),  -- of the decoded sound (mono), in Hz
    track          INTEGER CHECK (track >= 0),                -- the sound track that was read, counted from 0; NULL: there is none
    n_channels     INTEGER CHECK (n_channels > 0),            -- of the source track
    mix            VARCHAR CHECK (regexp_full_match(mix, 'mean|channel [1-9][0-9]*')),  -- how n_channels became one: ffmpeg's weighted
                                                              -- mean, or the channel that was taken (from 1) since the mean would cancel
                                                              -- or the others hold nothing; NULL for mono, and without samples
    duration_s     DOUBLE CHECK (duration_s >= 0),            -- of the decoded sound, in seconds
    expected_s     DOUBLE CHECK (expected_s >= 0),            -- what the container promised, in seconds
    n_samples      BIGINT NOT NULL CHECK (n_samples >= 0),
    level_dbfs     DOUBLE CHECK (level_dbfs <= 1),            -- RMS of the track's loudest channel before mixing and before perturb,
                                                              -- its mean (a constant offset) left out; NULL as rms_dbfs
    rms_dbfs       DOUBLE CHECK (rms_dbfs <= 1),              -- 0 = full scale; NULL without samples or all zero
    peak_dbfs      DOUBLE CHECK (peak_dbfs <= 1),
    error          VARCHAR,                                   -- the last lines of ffmpeg's stderr
    n_blocks       INTEGER NOT NULL CHECK (n_blocks >= 0),    -- rows of `waveforms`; 0 where the sound was not kept
    cache_key      VARCHAR NOT NULL                           -- sha256 of content, options and code version
);

-- One row a block of a clip's sound, made by `decode`, so that no reader holds a long file whole.
CREATE TABLE waveforms (
    clip_id        VARCHAR NOT NULL,
    block          INTEGER NOT NULL CHECK (block >= 0),       -- counts from 0; all but a clip's last are 30 s long
    n_samples      INTEGER NOT NULL CHECK (n_samples > 0),
    flac           BLOB NOT NULL,                             -- mono, 16 bits, at audio.sample_rate
    cache_key      VARCHAR NOT NULL,                          -- that of the clip's row in `audio`
    PRIMARY KEY (clip_id, block)
);

-- One row a window of a clip with sound, made by `tag`.
CREATE TABLE tags (
    clip_id        VARCHAR NOT NULL,
    window_start_s DOUBLE NOT NULL CHECK (window_start_s >= 0),
    padded_share   DOUBLE NOT NULL CHECK (padded_share >= 0 AND padded_share < 1),  -- of the window that is zeros
    cache_key      VARCHAR NOT NULL,                -- sha256 of the audio's key, tagger, checkpoint, window options
    logits         FLOAT[] NOT NULL,                -- before the sigmoid, in the tagger's label order
    PRIMARY KEY (clip_id, window_start_s)
);

-- One row a pair of sound and class that the mapper connects, made by `map_labels`.
CREATE TABLE label_map (
    audio_id       INTEGER NOT NULL CHECK (audio_id >= 0),  -- index in data/labels/audioset.csv; a tagger's labels join by name
    audio_label    VARCHAR NOT NULL,
    label_id       INTEGER NOT NULL CHECK (label_id >= 0),
    label          VARCHAR NOT NULL,
    weight         DOUBLE NOT NULL CHECK (weight > 0 AND weight <= 1),
    necessary      BOOLEAN NOT NULL,                        -- the class cannot go without this sound
    reason         VARCHAR NOT NULL,
    source         VARCHAR NOT NULL,                        -- which mapper, and for an LLM which model
    PRIMARY KEY (audio_id, label_id)
);

-- One row a head class and class, made by `map_classes`: which classes of the data set a model's own classes lead to.  No row where the
-- model has the data set's classes (model.classes is empty).
CREATE TABLE class_map (
    head_id        INTEGER NOT NULL CHECK (head_id >= 0),   -- in the order of the head's outputs
    head_label     VARCHAR NOT NULL,
    label_id       INTEGER NOT NULL CHECK (label_id >= 0),
    label          VARCHAR NOT NULL,
    weight         DOUBLE NOT NULL CHECK (weight > 0 AND weight <= 1),  -- share of the head class's probability; scaled where they sum above 1
    reason         VARCHAR NOT NULL,
    source         VARCHAR NOT NULL,                        -- which mapper, and for an LLM which model
    PRIMARY KEY (head_id, label_id)
);

-- One row a clip, made by `pseudo_label`: what its sound says about the K classes.
CREATE TABLE pseudo_labels (
    clip_id        VARCHAR NOT NULL PRIMARY KEY,
    status         VARCHAR NOT NULL CHECK (status IN ('ok', 'no_track', 'silent', 'truncated', 'failed')),
    probs          FLOAT[] NOT NULL,                -- q: K values, sum 1; uniform where nothing is heard
    evidence       FLOAT[] NOT NULL,                -- s: K values in [0, 1]
    absent         FLOAT[] NOT NULL,                -- K values in [0, 1]: 1 - the probability of the loudest sound that is `necessary` for
                                                    -- the class; 0 (nothing is said) without such a sound, or where the clip has no tags
    mass           DOUBLE NOT NULL CHECK (mass >= 0 AND mass <= 1),  -- m: how much sound supports any class
    top_label      VARCHAR,                         -- NULL where mass is 0
    causes         STRUCT(sound VARCHAR, probability DOUBLE, weight DOUBLE)[] NOT NULL  -- at most 5 that count, weight: for top_label
);

-- One row a clip of a stream, made by `adapt`.
CREATE TABLE predictions (
    dataset        VARCHAR NOT NULL,
    backbone       VARCHAR NOT NULL,
    run            VARCHAR NOT NULL,                        -- its name: method+fusion, unless it was given another
    method         VARCHAR NOT NULL,                        -- a file of adapt/methods
    fusion         VARCHAR NOT NULL,                        -- a file of adapt/fusion, or none
    corruption     VARCHAR NOT NULL,
    severity       INTEGER NOT NULL CHECK (severity BETWEEN 0 AND 5),
    order_seed     INTEGER NOT NULL,
    position       INTEGER NOT NULL CHECK (position >= 0),  -- in the stream, from 0
    clip_id        VARCHAR NOT NULL,
    label_id       INTEGER NOT NULL CHECK (label_id >= 0),  -- ground truth, joined after the method has answered
    label_ids      INTEGER[],                               -- as in clips: every class of a clip of several, else NULL
    probs          FLOAT[],                                 -- softmax of after, for clips of several classes (mean average precision)
    fused_probs    FLOAT[],                                 -- the same of fused
    before_id      INTEGER CHECK (before_id >= 0),          -- predicted before this clip's first step; NULL where failed
    after_id       INTEGER CHECK (after_id >= 0),           -- what the method answers alone: the centre view after adapting
    fused_id       INTEGER CHECK (fused_id >= 0),           -- picture and sound together; NULL where fusion is none
    steps          INTEGER NOT NULL CHECK (steps >= 0),
    stop_reason    VARCHAR NOT NULL,                        -- agreed, converged, diverged, max_iterations, unheard, unreliable,
                                                    -- redundant, shapeless, recovered, collapsed, not_finite, budget, none, failed
    gate           DOUBLE CHECK (gate BETWEEN 0 AND 1),     -- weight of the audio term; NULL for methods without
    left_out       DOUBLE CHECK (left_out BETWEEN 0 AND 1), -- probability of head classes that lead to no class (class_map), mean over the
                                                            -- network's answers to this clip's batch; NULL where the head has these classes
    ms             DOUBLE NOT NULL CHECK (ms >= 0),         -- adapting and predicting, decode excluded
    PRIMARY KEY (dataset, backbone, run, corruption, severity, order_seed, position)
);

-- One row a step of a clip, made by `adapt`.
CREATE TABLE traces (
    dataset        VARCHAR NOT NULL,
    backbone       VARCHAR NOT NULL,
    run            VARCHAR NOT NULL,
    corruption     VARCHAR NOT NULL,
    severity       INTEGER NOT NULL,
    order_seed     INTEGER NOT NULL,
    position       INTEGER NOT NULL,
    step           INTEGER NOT NULL CHECK (step >= 1),
    loss           DOUBLE NOT NULL,
    alignment      DOUBLE,
    consistency    DOUBLE,
    audio          DOUBLE,                          -- the audio term, gate included
    views_agree    BOOLEAN NOT NULL,
    ms             DOUBLE NOT NULL CHECK (ms >= 0),
    PRIMARY KEY (dataset, backbone, run, corruption, severity, order_seed, position, step)
);

-- One row a clip of an archive (`python -m adapt.archive`): what tables need of `clips` and `pseudo_labels`.
CREATE TABLE archived_clips (
    clip_id        VARCHAR NOT NULL PRIMARY KEY,
    split          VARCHAR NOT NULL CHECK (split IN ('train', 'val', 'test')),
    label_id       INTEGER NOT NULL CHECK (label_id >= 0),  -- in the order of the archive's labels.txt
    label_ids      INTEGER[] CHECK (list_contains(label_ids, label_id)),  -- as in clips
    sound_status   VARCHAR NOT NULL CHECK (sound_status IN ('ok', 'no_track', 'silent', 'truncated', 'failed'))  -- as in pseudo_labels
);

-- One row a clip of a stream in an archive: what tables need of `predictions`.  The last three are the same in all rows of a stream.
-- Archives outlive versions of this table: a new column may be NULL, and is, in older files.
CREATE TABLE archived_predictions (
    run            VARCHAR NOT NULL,
    method         VARCHAR NOT NULL,
    fusion         VARCHAR NOT NULL,
    corruption     VARCHAR NOT NULL,
    severity       INTEGER NOT NULL CHECK (severity BETWEEN 0 AND 5),
    order_seed     INTEGER NOT NULL,
    clip_id        VARCHAR NOT NULL,
    position       INTEGER NOT NULL CHECK (position >= 0),
    after_id       INTEGER CHECK (after_id >= 0),
    fused_id       INTEGER CHECK (fused_id >= 0),
    steps          INTEGER NOT NULL CHECK (steps >= 0),
    stop_reason    VARCHAR NOT NULL,
    left_out       DOUBLE CHECK (left_out BETWEEN 0 AND 1),
    mean_ms        DOUBLE NOT NULL CHECK (mean_ms >= 0),            -- over the clips that were read
    mean_ap        DOUBLE CHECK (mean_ap BETWEEN 0 AND 1),          -- mean average precision; NULL without clips of several classes
    fused_mean_ap  DOUBLE CHECK (fused_mean_ap BETWEEN 0 AND 1),    -- the same of the fused answers
    PRIMARY KEY (run, corruption, severity, order_seed, clip_id)
);
