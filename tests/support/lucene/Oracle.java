import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.lucene.analysis.Analyzer;
import org.apache.lucene.analysis.AnalyzerWrapper;
import org.apache.lucene.analysis.TokenStream;
import org.apache.lucene.analysis.core.KeywordAnalyzer;
import org.apache.lucene.analysis.standard.StandardAnalyzer;
import org.apache.lucene.analysis.tokenattributes.CharTermAttribute;
import org.apache.lucene.document.Document;
import org.apache.lucene.document.Field;
import org.apache.lucene.document.StoredField;
import org.apache.lucene.document.StringField;
import org.apache.lucene.document.TextField;
import org.apache.lucene.index.DirectoryReader;
import org.apache.lucene.index.IndexWriter;
import org.apache.lucene.index.IndexWriterConfig;
import org.apache.lucene.index.Term;
import org.apache.lucene.queryparser.simple.SimpleQueryParser;
import org.apache.lucene.search.BooleanClause.Occur;
import org.apache.lucene.search.BooleanQuery;
import org.apache.lucene.search.FuzzyQuery;
import org.apache.lucene.search.IndexSearcher;
import org.apache.lucene.search.Query;
import org.apache.lucene.search.ScoreDoc;
import org.apache.lucene.store.ByteBuffersDirectory;

/**
 * Lucene's own analyzer and query parser, set up as Elasticsearch sets them up for Argilla's simple_query_string, answering lines.
 *
 * <pre>
 * tokens TEXT              the standard analyzer's terms
 * add FIELD TEXT ...       a document; a field given twice has two values; NAME.role is a keyword
 * find QUERY FIELD ...     numbers of the documents that match in any of the fields
 * </pre>
 *
 * Texts travel as base64 of UTF-8. Each line is answered by one line.
 */
public final class Oracle {
  private static final Analyzer STANDARD = new StandardAnalyzer();
  private static final Analyzer KEYWORD = new KeywordAnalyzer();
  private static final Analyzer BY_FIELD =
      new AnalyzerWrapper(Analyzer.PER_FIELD_REUSE_STRATEGY) {
        @Override
        protected Analyzer getWrappedAnalyzer(String field) {
          return field.endsWith(".role") ? KEYWORD : STANDARD;
        }

        @Override
        public int getPositionIncrementGap(String field) {
          return 100; // Elasticsearch's default between the values of one field
        }
      };

  private final IndexWriter writer;
  private IndexSearcher searcher;
  private int count = 0;

  private Oracle() throws Exception {
    writer = new IndexWriter(new ByteBuffersDirectory(), new IndexWriterConfig(BY_FIELD));
  }

  public static void main(String[] arguments) throws Exception {
    Oracle oracle = new Oracle();
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
    PrintStream out = new PrintStream(System.out, false, "US-ASCII");
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      out.println(oracle.answer(line.split(" ", -1)));
      out.flush();
    }
  }

  private String answer(String[] words) throws Exception {
    List<String> values = new ArrayList<>();
    for (int n = 1; n < words.length; n++) {
      values.add(new String(Base64.getDecoder().decode(words[n]), StandardCharsets.UTF_8));
    }
    switch (words[0]) {
      case "tokens":
        return tokens(values.get(0));
      case "add":
        return add(values);
      default:
        return find(values.get(0), values.subList(1, values.size()));
    }
  }

  private static String tokens(String text) throws Exception {
    StringBuilder found = new StringBuilder();
    try (TokenStream stream = STANDARD.tokenStream("f", text)) {
      CharTermAttribute term = stream.addAttribute(CharTermAttribute.class);
      stream.reset();
      while (stream.incrementToken()) {
        byte[] bytes = term.toString().getBytes(StandardCharsets.UTF_8);
        found.append(Base64.getEncoder().encodeToString(bytes)).append(' ');
      }
      stream.end();
    }
    return found.toString().trim();
  }

  private String add(List<String> values) throws Exception {
    Document document = new Document();
    document.add(new StoredField("number", count++));
    for (int n = 0; n < values.size(); n += 2) {
      String name = values.get(n);
      document.add(
          name.endsWith(".role")
              ? new StringField(name, values.get(n + 1), Field.Store.NO)
              : new TextField(name, values.get(n + 1), Field.Store.NO));
    }
    writer.addDocument(document);
    searcher = null;
    return "ok";
  }

  private String find(String text, List<String> fields) throws Exception {
    if (searcher == null) {
      searcher = new IndexSearcher(DirectoryReader.open(writer));
    }
    Map<String, Float> weights = new TreeMap<>();
    fields.forEach(field -> weights.put(field, 1.0f));
    Query query = new AsElasticsearch(weights).parse(text);
    StringBuilder found = new StringBuilder();
    for (ScoreDoc hit : searcher.search(query, Math.max(count, 1)).scoreDocs) {
      found.append(searcher.storedFields().document(hit.doc).get("number")).append(' ');
    }
    return found.toString().trim();
  }

  /** Argilla asks with default_operator AND, fuzzy_max_expansions 10 and fuzzy_transpositions false. */
  private static final class AsElasticsearch extends SimpleQueryParser {
    AsElasticsearch(Map<String, Float> weights) {
      super(BY_FIELD, weights);
      setDefaultOperator(Occur.MUST);
    }

    @Override
    protected Query newFuzzyQuery(String text, int edits) {
      BooleanQuery.Builder any = new BooleanQuery.Builder();
      for (String field : weights.keySet()) {
        Term term = new Term(field, getAnalyzer().normalize(field, text));
        any.add(new FuzzyQuery(term, edits, 0, 10, false), Occur.SHOULD);
      }
      return any.build();
    }
  }
}
