"""Tasks of one's own that are refused before any work, with the reason and the cure."""

import pytest

from tamft.errors import InputError
from tamft.evaluation.tasks import get_tasks
from tests.evaluation.shop import altered

WRONG_FILES = {
    "an empty file": ("ShopTopics", "intents_test.csv", "", "the file is empty"),
    "a header alone": ("ShopTopics", "intents_test.csv", "question,intent\n", "holds no rows"),
    "a missing column": ("ShopTopics", "intents_test.csv", "question,intnet\na,b\n", "no column 'intent'.*intnet"),
    "a missing text": ("ShopTopics", "intents_test.csv", "question,intent\na,x\n ,y\n", "line 3: column 'question'"),
    "a missing class": ("ShopTopics", "intents_test.csv", "question,intent\na,x\nb,\n", "line 3: column 'intent' has"),
    "one class": ("ShopTopics", "intents_test.csv", "question,intent\na,x\nb,x\n", "all 2 rows have the label 'x'"),
    "classes of one": ("ShopTopics", "intents_test.csv", "question,intent\na,x\nb,y\n", "a label of its own"),
    "a class to test only": (
        "ShopIntents",
        "intents_test.csv",
        "question,intent\na,order\nb,adviec\n",
        "no row of the training file has the label 'adviec'",
    ),
    "a class to train only": (
        "ShopIntents",
        "intents_test.csv",
        "question,intent\na,order\nb,advice\n",
        "no row of the test file has the label 'rental', 'repair'; take",
    ),
    "one training class": ("ShopIntents", "intents_train.csv", "question,intent\na,x\nb,x\n", "a score needs two"),
    "equal grades": ("ShopSimilarity", "pairs.jsonl", '{"a": "x", "b": "y", "grade": 1}\n' * 3, "no correlation"),
    "a grade in words": ("ShopSimilarity", "pairs.jsonl", '{"a": "x", "b": "y", "grade": "high"}\n', "a finite number"),
    "a grade that is NaN": ("ShopSimilarity", "pairs.jsonl", '{"a": "x", "b": "y", "grade": NaN}\n', "a finite number"),
    "half a character": ("ShopSimilarity", "pairs.jsonl", '{"a": "\\ud83d", "b": "y", "grade": 1}\n', "half a char"),
    "broken JSON": ("ShopSimilarity", "pairs.jsonl", '{"a": \n', "line 1: broken JSON"),
    "a label 2": ("ShopDuplicates", "duplicates.csv", "sentence1,sentence2,label\na,b,2\n", "has to be 1"),
    "only duplicates": ("ShopDuplicates", "duplicates.csv", "sentence1,sentence2,label\na,b,1\nc,d,1\n", "two classes"),
    "an id twice": ("ShopAnswers", "queries.jsonl", '{"id": 1, "question": "x"}\n' * 2, "query id '1' occurs 2 times"),
    "a document twice": ("ShopAnswers", "corpus.jsonl", '{"id": "a", "text": "x"}\n' * 2, "document id 'a' occurs"),
    "an unknown query": ("ShopAnswers", "qrels.csv", "query-id,corpus-id\nq9,brakes\n", "'q9': no such id in queries"),
    "an unknown document": ("ShopAnswers", "qrels.csv", "query-id,corpus-id\nrepair1,d9\n", "'d9': no such id in corp"),
    "nothing relevant": ("ShopAnswers", "qrels.csv", "query-id,corpus-id,score\nrepair1,oil,0\n", "no relevant docu"),
    "a negative grade": ("ShopAnswers", "qrels.csv", "query-id,corpus-id,score\nrepair1,oil,-1\n", "0 .not relevant"),
    "two grades": (
        "ShopAnswers",
        "qrels.csv",
        "query-id,corpus-id,score\nrepair1,oil,1\nrepair1,oil,2\n",
        "two different scores",
    ),
    "an empty document": ("ShopAnswers", "corpus.jsonl", '{"id": "a", "text": " "}\n', "neither text nor title"),
    "no negative": (
        "ShopCandidates",
        "candidates.jsonl",
        '{"query": "a", "positive": ["b"], "negative": []}\n',
        "needs",
    ),
    "both at once": (
        "ShopCandidates",
        "candidates.jsonl",
        '{"query": "a", "positive": ["b"], "negative": ["b"]}\n',
        "'b' is positive and negative",
    ),
}


@pytest.mark.parametrize("what", WRONG_FILES)
def test_wrong_files(tmp_path, what):
    task, file, text, message = WRONG_FILES[what]
    suite = altered(tmp_path, **{file: text})
    with pytest.raises(InputError, match=message):
        get_tasks([task], suite=suite)


WRONG_LINES = {
    "name: ShopTopics": [
        ("name: STS13", "mteb or tamft has a task of this name"),
        ("name: sts13", "mteb or tamft has a task of this name"),
        ("name: EmbeddedSTS", "mteb or tamft has a task of this name"),
        ("name: ../../evil", "a name is letters, digits"),
        ("name: a/b", "a name is letters, digits"),
        ("name: ''", "a name is letters, digits"),
        ("name: .hidden", "a name is letters, digits"),
        ("name: model_meta", "a name is letters, digits"),
        ("name: 7", "a name is letters, digits"),
        ("name: ShopIntents", "is there twice"),
    ],
    "type: Clustering": [
        ("type: Clusterin", "type 'Clusterin' is not known. Did you mean 'Clustering'"),
        ("type: Summarization", "It is Classification, STS"),
        ("type: [STS]", "is not known"),
        ("type: Clustering\n    topk: 3", "unknown key 'topk'"),
        ("type: Clustering\n    options: {samples: 3}", "unknown option 'samples'; there are n_clusters"),
        ("type: Clustering\n    options: {n_clusters: 0}", "at least 1, it is 0"),
        ("type: Clustering\n    options: 3", "`options`"),
        ("type: Clustering\n    metric: accuracy", "metric 'accuracy' is not one of v_measure"),
        ("type: Clustering\n    language: english", "write it as eng-Latn"),
        ("type: Clustering\n    language: xyz-Latn", "write it as eng-Latn"),
    ],
    "qrels: qrels.csv": [
        ("qrel: qrels.csv", "needs the files queries, corpus, qrels; add `qrels: FILE`"),
        ("qrels: qrels.txt", "unknown kind of file"),
        ("qrels: nothing.csv", "there is no such file"),
        ("qrels: [a]", "add `qrels: FILE`"),
    ],
    "columns: {queries: {text: question}}": [
        ("columns: {queries: {question: text}}", "the columns are .queries: id, text; corpus: id, text, title"),
        ("columns: {question: text}", "the columns are"),
        ("columns: {queries: {text: 3}}", "the columns are"),
        ("columns: question", "`columns` says what the columns are called"),
        ("columns: {queries: {text: question}, corpus: {title: name}}", "no column 'name'"),
    ],
}


@pytest.mark.parametrize(
    ("old", "new", "message"), [(o, n, m) for o, changes in WRONG_LINES.items() for n, m in changes]
)
def test_wrong_lines(tmp_path, old, new, message):
    with pytest.raises(InputError, match=message):
        get_tasks(suite=altered(tmp_path, old, new))
