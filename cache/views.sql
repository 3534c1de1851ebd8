-- What `python -m pipeline.query DATASET` offers on top of the tables of cache/schema.sql, each view where its tables exist.
-- tagger_labels (position from 1, sound) is the label list that the tags were made with.

-- One row a clip and sound: how sure the tagger is of the sound in that clip's loudest window (a probability; they do not sum to 1).
CREATE VIEW sounds AS
SELECT clip_id, sound, 1 / (1 + exp(-max(logit)::DOUBLE)) AS probability
FROM (SELECT clip_id, unnest(logits) AS logit, generate_subscripts(logits, 1) AS position FROM tags)
JOIN tagger_labels USING (position)
GROUP BY clip_id, sound;

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
