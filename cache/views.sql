-- What SQL offers on top of the tables of cache/schema.sql: views, and macros (called like tables: FROM why('...')).
-- One that needs a table which is not made yet is left out; using it names the stage to run.  pipeline/sql/connection.py adds four small tables:
--   classes (label_id, label)         the class names in the order of label_id
--   tagger_labels (position, sound)   the label list that the tags were made with; position counts from 1
--   related_sounds (sound, other)     which of these are an ancestor of one another in the ontology; empty where pseudo_label.related is all
--   pseudo_label_settings             one row: combine, related, reduce, threshold, top_k, temperature, tagger, mapper

-- One row a clip and sound: how sure the tagger is of the sound in that clip's loudest window (a probability; they do not sum to 1).
CREATE VIEW sounds AS
SELECT clip_id, sound, 1 / (1 + exp(-max(logit)::DOUBLE)) AS probability
FROM (SELECT clip_id, unnest(logits) AS logit, generate_subscripts(logits, 1) AS position FROM tags)
JOIN tagger_labels USING (position)
GROUP BY clip_id, sound;

-- The k loudest sounds of a clip; none where it has no sound.  An unknown clip is an error.
CREATE MACRO loudest(clip_id, k := 10) AS TABLE
(
    SELECT tagger_labels.sound, 1 / (1 + exp(-max(windows.logit)::DOUBLE)) AS probability
    FROM (
        SELECT unnest(tags.logits) AS logit, generate_subscripts(tags.logits, 1) AS position
        FROM tags WHERE tags.clip_id = clip_id
    ) AS windows
    JOIN tagger_labels USING (position)
    GROUP BY tagger_labels.sound, tagger_labels.position
    ORDER BY probability DESC, tagger_labels.position
    LIMIT k
)
UNION ALL
SELECT error('clips has no clip_id ' || clip_id), NULL FROM (SELECT count(*) AS n FROM clips WHERE clips.clip_id = clip_id) WHERE n = 0;

-- The clips in which a sound was heard with at least that probability, the surest first.  An unknown sound is an error.
CREATE MACRO heard(sound, min_probability := 0.5) AS TABLE
SELECT clips.clip_id, clips.split, clips.label, 1 / (1 + exp(-max(tags.logits[wanted.position])::DOUBLE)) AS probability
FROM (
    SELECT if(count(*) = 0, error('tagger_labels has no sound ' || sound), any_value(tagger_labels.position)) AS position
    FROM tagger_labels WHERE tagger_labels.sound = sound
) AS wanted
CROSS JOIN tags
JOIN clips ON clips.clip_id = tags.clip_id
GROUP BY clips.clip_id, clips.split, clips.label
HAVING probability >= min_probability
ORDER BY probability DESC, clips.clip_id;

-- Why a clip's pseudo-label is what it is: one row a heard sound and class that the label map connects.
-- probability x weight = contribution; those that count (of related sounds only the strongest) combine to the class's score (evidence),
-- and the scores of all classes to its share (probs).  No row where nothing that speaks for a class was heard; an unknown clip is an error.
CREATE MACRO why(clip_id) AS TABLE
WITH windows AS (
    SELECT unnest(tags.logits)::DOUBLE AS logit, generate_subscripts(tags.logits, 1) AS position
    FROM tags WHERE tags.clip_id = clip_id
), loud AS (
    SELECT tagger_labels.position, tagger_labels.sound,
        CASE any_value(settings.reduce) WHEN 'mean' THEN avg(1 / (1 + exp(-windows.logit))) ELSE 1 / (1 + exp(-max(windows.logit))) END AS probability
    FROM windows JOIN tagger_labels USING (position) CROSS JOIN pseudo_label_settings AS settings
    GROUP BY tagger_labels.position, tagger_labels.sound
    HAVING probability >= any_value(settings.threshold)
    QUALIFY row_number() OVER (ORDER BY probability DESC, tagger_labels.position) <= any_value(settings.top_k)
), supports AS (
    SELECT loud.sound, loud.probability, label_map.label_id, label_map.label, label_map.weight, label_map.necessary,
        loud.probability * label_map.weight AS contribution,
        coalesce((SELECT list(related_sounds.other) FROM related_sounds WHERE related_sounds.sound = loud.sound), []) AS related,
        row_number() OVER (PARTITION BY label_map.label_id ORDER BY contribution DESC, loud.probability DESC, loud.position) AS place
    FROM loud JOIN label_map ON label_map.audio_label = loud.sound
), counting AS (  -- strongest first, a sound is left out where one of its relatives already counts
    SELECT supports.label_id, list_reduce(
        list({'sound': supports.sound, 'related': supports.related} ORDER BY supports.place),
        lambda found, next: if(list_has_any(found, next.related), found, list_append(found, next.sound)),
        []::VARCHAR[]
    ) AS found
    FROM supports GROUP BY supports.label_id
)
(
    SELECT supports.sound, supports.probability, supports.label, supports.weight, supports.necessary, supports.contribution,
        list_contains(counting.found, supports.sound) AS counts,
        pseudo_labels.evidence[supports.label_id + 1] AS score, pseudo_labels.probs[supports.label_id + 1] AS share
    FROM supports JOIN counting USING (label_id) JOIN pseudo_labels ON pseudo_labels.clip_id = clip_id
    ORDER BY score DESC, supports.label_id, supports.place
)
UNION ALL
SELECT error('clips has no clip_id ' || clip_id), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM (SELECT count(*) AS n FROM clips WHERE clips.clip_id = clip_id) WHERE n = 0;

-- The clips in which sound was heard that speaks for another class than the label, the surest first.
CREATE VIEW disagreements AS
SELECT clip_id, clips.split, clips.label, pseudo_labels.top_label, pseudo_labels.mass, pseudo_labels.causes
FROM clips JOIN pseudo_labels USING (clip_id)
WHERE pseudo_labels.mass > 0 AND pseudo_labels.top_label <> clips.label
ORDER BY pseudo_labels.mass DESC, clip_id;

-- One row a class: what sound can do for it on the test clips.
CREATE VIEW hearing AS
SELECT
    clips.label_id,
    clips.label,
    count(*) AS n_test_clips,
    count(*) FILTER (pseudo_labels.status IN ('ok', 'truncated')) AS n_with_sound,    -- a track above the silence level
    count(*) FILTER (pseudo_labels.evidence[clips.label_id + 1] > 0) AS n_supported,  -- a sound was heard that speaks for the class
    count(*) FILTER (pseudo_labels.top_label = clips.label) AS n_right,               -- and for no class more
    avg(pseudo_labels.mass) AS mean_mass
FROM clips JOIN pseudo_labels USING (clip_id)
WHERE clips.split = 'test'
GROUP BY clips.label_id, clips.label
ORDER BY clips.label_id;

-- The classes without sound: in none of their test clips was a sound heard that speaks for the class.
CREATE VIEW unheard AS
SELECT * FROM hearing WHERE n_supported = 0 ORDER BY label_id;

-- One row a class: the sounds that the label map gives it, and in how many of its clips (all splits) one of them was heard.
CREATE VIEW coverage AS
SELECT classes.label_id, classes.label,
    coalesce(mapped.n_sounds, 0) AS n_sounds,
    coalesce(mapped.n_necessary, 0) AS n_necessary,
    coalesce(mapped.sounds, []) AS sounds,                          -- by weight
    coalesce(found.n_clips, 0) AS n_clips,
    coalesce(found.n_supported, 0) AS n_supported,
    found.n_supported / found.n_clips AS coverage                   -- NULL for a class without clips
FROM classes
LEFT JOIN (
    SELECT label_id, count(*) AS n_sounds, count(*) FILTER (necessary) AS n_necessary, list(audio_label ORDER BY weight DESC, audio_id) AS sounds
    FROM label_map GROUP BY label_id
) AS mapped USING (label_id)
LEFT JOIN (
    SELECT clips.label_id, count(*) AS n_clips, count(*) FILTER (pseudo_labels.evidence[clips.label_id + 1] > 0) AS n_supported
    FROM clips JOIN pseudo_labels USING (clip_id) GROUP BY clips.label_id
) AS found USING (label_id)
ORDER BY classes.label_id;

-- One row a split and class: how good top_label alone would be, against the clips' labels.
CREATE VIEW quality AS
SELECT truth.split, truth.label_id, truth.label,
    truth.n_clips,                                                  -- of the class
    truth.n_heard,                                                  -- of these, with a pseudo-label at all (mass > 0)
    coalesce(said.n_said, 0) AS n_said,                             -- clips of any class that the sound says are of this one
    truth.n_right,
    truth.n_right / said.n_said AS precision,                       -- NULL where sound never says so
    truth.n_right / truth.n_clips AS recall
FROM (
    SELECT clips.split, clips.label_id, clips.label, count(*) AS n_clips, count(*) FILTER (pseudo_labels.mass > 0) AS n_heard,
        count(*) FILTER (pseudo_labels.top_label = clips.label) AS n_right
    FROM clips JOIN pseudo_labels USING (clip_id) GROUP BY ALL
) AS truth
LEFT JOIN (
    SELECT clips.split, pseudo_labels.top_label AS label, count(*) AS n_said
    FROM clips JOIN pseudo_labels USING (clip_id) WHERE pseudo_labels.mass > 0 GROUP BY ALL
) AS said USING (split, label)
ORDER BY truth.split, truth.label_id;

-- One row a prediction: what the model said before and after adapting, what the sound said, and how the loss went.
CREATE VIEW outcomes AS
SELECT predictions.backbone, predictions.run, predictions.method, predictions.fusion, predictions.corruption, predictions.severity, predictions.order_seed, predictions.position,
    predictions.clip_id, truth.label,
    before.label AS before, after.label AS after, fused.label AS fused,   -- NULL where failed, or without a fusion
    coalesce(predictions.before_id = predictions.label_id, false) AS right_before,
    coalesce(predictions.after_id = predictions.label_id, false) AS right_after,
    predictions.fused_id = predictions.label_id AS right_fused,
    pseudo_labels.top_label AS sound_says, coalesce(pseudo_labels.mass, 0) AS mass, predictions.gate,
    predictions.steps, predictions.stop_reason, steps.first_loss, steps.last_loss, predictions.ms
FROM predictions
JOIN classes AS truth ON truth.label_id = predictions.label_id
LEFT JOIN classes AS before ON before.label_id = predictions.before_id
LEFT JOIN classes AS after ON after.label_id = predictions.after_id
LEFT JOIN classes AS fused ON fused.label_id = predictions.fused_id
LEFT JOIN pseudo_labels ON pseudo_labels.clip_id = predictions.clip_id
LEFT JOIN (
    SELECT dataset, backbone, run, corruption, severity, order_seed, position, arg_min(loss, step) AS first_loss, arg_max(loss, step) AS last_loss
    FROM traces GROUP BY ALL
) AS steps USING (dataset, backbone, run, corruption, severity, order_seed, position)
ORDER BY predictions.backbone, predictions.run, predictions.corruption, predictions.severity, predictions.order_seed, predictions.position;
