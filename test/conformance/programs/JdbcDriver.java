import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.sql.*;
import java.util.*;
import java.util.concurrent.*;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

/**
 * Does with the JDBC driver what each line of standard input asks for, and answers with one line: {"id", "answer"} or
 * {"id", "error"}. A request is {"id", "session", "call", ...}; each session has a thread, so that a cancel can overtake
 * what runs. Values go back as text beside their Java type; long ones as a hash.
 */
public class JdbcDriver {
  static final int LONG = 2000;
  static final PrintStream OUT = new PrintStream(System.out, false, StandardCharsets.UTF_8);

  public static void main(String[] args) throws Exception {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    Map<Object, Session> sessions = new HashMap<>();
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      Map<String, Object> asked = map(new Json(line).value());
      Session session = sessions.computeIfAbsent(asked.get("session"), id -> new Session());
      if (asked.get("call").equals("cancel")) answer(asked, () -> session.cancel());
      else session.requests.submit(() -> answer(asked, () -> session.call(asked)));
    }
    System.exit(0);
  }

  static void answer(Map<String, Object> asked, Callable<Object> work) {
    Map<String, Object> line = new LinkedHashMap<>();
    line.put("id", asked.get("id"));
    try {
      line.put("answer", work.call());
    } catch (Throwable error) {
      line.put("error", failure(error));
    }
    String text = Json.write(line);
    synchronized (OUT) {
      OUT.println(text);
      OUT.flush();
    }
  }

  static Map<String, Object> failure(Throwable error) {
    Map<String, Object> seen = new LinkedHashMap<>();
    seen.put("kind", error.getClass().getSimpleName());
    seen.put("message", String.valueOf(error.getMessage()));
    if (error instanceof SQLException sql) seen.put("code", sql.getSQLState());
    if (error instanceof PSQLException postgres && postgres.getServerErrorMessage() != null)
      seen.putAll(fields(postgres.getServerErrorMessage()));
    return seen;
  }

  static Map<String, Object> fields(ServerErrorMessage message) {
    Map<String, Object> seen = new LinkedHashMap<>();
    seen.put("severity", message.getSeverity());
    seen.put("text", message.getMessage());
    seen.put("detail", message.getDetail());
    seen.put("hint", message.getHint());
    seen.put("position", message.getPosition());
    seen.put("internalQuery", message.getInternalQuery());
    seen.put("internalPosition", message.getInternalPosition());
    seen.put("where", message.getWhere());
    seen.put("schema", message.getSchema());
    seen.put("table", message.getTable());
    seen.put("column", message.getColumn());
    seen.put("datatype", message.getDatatype());
    seen.put("constraint", message.getConstraint());
    seen.put("file", message.getFile());
    seen.put("line", message.getLine());
    seen.put("routine", message.getRoutine());
    return seen;
  }

  @SuppressWarnings("unchecked")
  static Map<String, Object> map(Object value) {
    return (Map<String, Object>) value;
  }

  @SuppressWarnings("unchecked")
  static List<Object> list(Object value) {
    return value == null ? List.of() : (List<Object>) value;
  }

  static Object plain(Object value) throws Exception {
    if (value == null) return null;
    String text = value instanceof byte[] bytes ? HexFormat.of().formatHex(bytes) : String.valueOf(value);
    if (value instanceof java.sql.Array array) text = array.toString();
    if (text.length() > LONG) {
      byte[] digest = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
      text = text.length() + " characters, sha256 " + HexFormat.of().formatHex(digest);
    }
    return value instanceof String ? text : Map.of(value.getClass().getSimpleName(), text);
  }

  static class Session {
    final ExecutorService requests = Executors.newSingleThreadExecutor(work -> {
      Thread thread = new Thread(work);
      thread.setDaemon(true);
      return thread;
    });
    final Map<String, PreparedStatement> prepared = new HashMap<>();
    final List<Object> heard = new ArrayList<>();
    final List<Object> notices = new ArrayList<>();
    Connection connection;
    volatile Statement running;

    Object call(Map<String, Object> asked) throws Exception {
      String text = (String) asked.get("text");
      List<Object> values = asked.containsKey("values") ? list(asked.get("values")) : null;
      switch ((String) asked.get("call")) {
        case "open": {
          Map<String, Object> options = map(asked.get("options"));
          Properties properties = new Properties();
          map(options.get("properties")).forEach((key, value) -> properties.put(key, String.valueOf(value)));
          connection = DriverManager.getConnection((String) options.get("url"), properties);
          return null;
        }
        case "query": return values == null ? run(text) : run(text, values);
        case "script": return run(text);
        case "prepared": {
          String name = (String) asked.get("name");
          if (!prepared.containsKey(name)) prepared.put(name, connection.prepareStatement(marks(text)));
          return execute(prepared.get(name), values);
        }
        case "pipeline": return batch(list(asked.get("statements")));
        case "cursor": return cursor(text, values, (Number) asked.get("size"), (Number) asked.get("batches"));
        case "copyIn": {
          ByteArrayOutputStream all = new ByteArrayOutputStream();
          for (Object chunk : list(asked.get("chunks"))) all.write(Base64.getDecoder().decode((String) chunk));
          return postgres().getCopyAPI().copyIn(text, new ByteArrayInputStream(all.toByteArray()));
        }
        case "copyInGivenUp": {
          var copy = postgres().getCopyAPI().copyIn(text);
          for (Object chunk : list(asked.get("chunks"))) {
            byte[] bytes = Base64.getDecoder().decode((String) chunk);
            copy.writeToCopy(bytes, 0, bytes.length);
          }
          copy.cancelCopy();
          return null;
        }
        case "copyOut": {
          ByteArrayOutputStream all = new ByteArrayOutputStream();
          postgres().getCopyAPI().copyOut(text, all);
          return Map.of("base64", Base64.getEncoder().encodeToString(all.toByteArray()));
        }
        case "listen": return run("listen " + asked.get("channel"));
        case "hear": {
          run("select 1");
          PGNotification[] more = postgres().getNotifications();
          if (more != null)
            for (PGNotification each : more) heard.add(Map.of("channel", each.getName(), "payload", each.getParameter()));
          return heard;
        }
        case "notices": return notices;
        case "transaction": return transaction(list(asked.get("statements")), (String) asked.get("isolation"), (Boolean) asked.get("readOnly"));
        case "close": {
          if (connection != null) connection.close();
          return null;
        }
        default: throw new IllegalArgumentException("no such call: " + asked.get("call"));
      }
    }

    PGConnection postgres() throws SQLException {
      return connection.unwrap(PGConnection.class);
    }

    Object cancel() throws SQLException {
      Statement statement = running;
      if (statement != null) statement.cancel();
      return null;
    }

    static String marks(String text) {
      return text.replaceAll("\\$\\d+", "?");
    }

    List<Object> run(String text) throws Exception {
      try (Statement statement = connection.createStatement()) {
        running = statement;
        return results(statement, statement.execute(text));
      }
    }

    List<Object> run(String text, List<Object> values) throws Exception {
      try (PreparedStatement statement = connection.prepareStatement(marks(text))) {
        return execute(statement, values);
      }
    }

    List<Object> execute(PreparedStatement statement, List<Object> values) throws Exception {
      running = statement;
      bind(statement, values);
      return results(statement, statement.execute());
    }

    static void bind(PreparedStatement statement, List<Object> values) throws SQLException {
      for (int at = 0; at < values.size(); at += 1) statement.setObject(at + 1, values.get(at));
    }

    List<Object> results(Statement statement, boolean first) throws Exception {
      List<Object> all = new ArrayList<>();
      boolean rows = first;
      while (rows || statement.getUpdateCount() != -1) {
        all.add(rows ? table(statement.getResultSet()) : Map.of("count", statement.getUpdateCount()));
        rows = statement.getMoreResults();
      }
      noteWarnings(statement.getWarnings());
      return all;
    }

    void noteWarnings(SQLWarning first) throws SQLException {
      for (SQLWarning warning = first; warning != null; warning = warning.getNextWarning())
        notices.add(warning instanceof org.postgresql.util.PSQLWarning own ? fields(own.getServerErrorMessage()) : warning.getMessage());
    }

    static Object table(ResultSet rows) throws Exception {
      ResultSetMetaData meta = rows.getMetaData();
      List<Object> columns = new ArrayList<>();
      for (int at = 1; at <= meta.getColumnCount(); at += 1)
        columns.add(List.of(meta.getColumnLabel(at), meta.getColumnTypeName(at), meta.getPrecision(at), meta.getScale(at)));
      List<Object> read = new ArrayList<>();
      while (rows.next()) read.add(row(rows, columns.size()));
      if (read.size() <= LONG) return Map.of("columns", columns, "rows", read);
      return Map.of("columns", columns, "count", read.size(), "all", plain(read.toString()));
    }

    static List<Object> row(ResultSet rows, int width) throws Exception {
      List<Object> row = new ArrayList<>();
      for (int at = 1; at <= width; at += 1) row.add(plain(rows.getObject(at)));
      return row;
    }

    /** JDBC's pipelines are batches of one statement with many values. */
    Object batch(List<Object> statements) throws Exception {
      try (PreparedStatement statement = connection.prepareStatement(marks((String) map(statements.get(0)).get("text")))) {
        for (Object each : statements) {
          bind(statement, list(map(each).get("values")));
          statement.addBatch();
        }
        return Arrays.toString(statement.executeBatch());
      }
    }

    Object cursor(String text, List<Object> values, Number size, Number batches) throws Exception {
      List<Object> read = new ArrayList<>();
      connection.setAutoCommit(false);
      try (PreparedStatement statement = connection.prepareStatement(marks(text))) {
        statement.setFetchSize(size.intValue());
        bind(statement, values);
        ResultSet rows = statement.executeQuery();
        int width = rows.getMetaData().getColumnCount();
        long most = batches == null ? Long.MAX_VALUE : batches.longValue() * size.longValue();
        while (read.size() < most && rows.next()) read.add(row(rows, width));
      } finally {
        connection.rollback();
        connection.setAutoCommit(true);
      }
      return read;
    }

    Object transaction(List<Object> statements, String isolation, boolean readOnly) throws Exception {
      int before = connection.getTransactionIsolation();
      connection.setReadOnly(readOnly);
      if (isolation != null)
        connection.setTransactionIsolation(Connection.class.getField("TRANSACTION_" + isolation.replace(' ', '_').toUpperCase()).getInt(null));
      connection.setAutoCommit(false);
      try {
        List<Object> all = new ArrayList<>();
        for (Object each : statements) all.add(run((String) map(each).get("text"), list(map(each).get("values"))));
        connection.commit();
        return all;
      } catch (SQLException error) {
        connection.rollback();
        throw error;
      } finally {
        connection.setAutoCommit(true);
        connection.setTransactionIsolation(before);
        connection.setReadOnly(false);
      }
    }
  }

  /** As much JSON as the requests and answers need. */
  static class Json {
    final String text;
    int at = 0;

    Json(String text) {
      this.text = text;
    }

    Object value() {
      space();
      char first = text.charAt(at);
      if (first == '{') return object();
      if (first == '[') return array();
      if (first == '"') return string();
      int from = at;
      while (at < text.length() && ",]} \n".indexOf(text.charAt(at)) < 0) at += 1;
      String word = text.substring(from, at);
      if (word.equals("null")) return null;
      if (word.equals("true") || word.equals("false")) return Boolean.valueOf(word);
      if (word.matches("-?\\d{1,9}")) return Integer.valueOf(word);
      return word.matches("-?\\d+") ? (Object) Long.valueOf(word) : (Object) Double.valueOf(word);
    }

    void space() {
      while (Character.isWhitespace(text.charAt(at))) at += 1;
    }

    Map<String, Object> object() {
      Map<String, Object> members = new LinkedHashMap<>();
      at += 1;
      for (space(); text.charAt(at) != '}'; space()) {
        if (text.charAt(at) == ',') at += 1;
        space();
        String key = string();
        space();
        at += 1;
        members.put(key, value());
      }
      at += 1;
      return members;
    }

    List<Object> array() {
      List<Object> items = new ArrayList<>();
      at += 1;
      for (space(); text.charAt(at) != ']'; space()) {
        if (text.charAt(at) == ',') at += 1;
        items.add(value());
      }
      at += 1;
      return items;
    }

    String string() {
      StringBuilder all = new StringBuilder();
      for (at += 1; text.charAt(at) != '"'; at += 1) {
        char each = text.charAt(at);
        if (each != '\\') {
          all.append(each);
          continue;
        }
        at += 1;
        each = text.charAt(at);
        if (each == 'u') {
          all.append((char) Integer.parseInt(text.substring(at + 1, at + 5), 16));
          at += 4;
        } else all.append(each == 'n' ? '\n' : each == 't' ? '\t' : each == 'r' ? '\r' : each == 'b' ? '\b' : each == 'f' ? '\f' : each);
      }
      at += 1;
      return all.toString();
    }

    static String write(Object value) {
      StringBuilder all = new StringBuilder();
      write(value, all);
      return all.toString();
    }

    static void write(Object value, StringBuilder all) {
      if (value == null || value instanceof Number || value instanceof Boolean) all.append(value);
      else if (value instanceof Map<?, ?> members) {
        String separator = "{";
        for (var member : new TreeMap<>(members).entrySet()) {
          all.append(separator);
          write(member.getKey(), all);
          all.append(':');
          write(member.getValue(), all);
          separator = ",";
        }
        all.append(members.isEmpty() ? "{}" : "}");
      } else if (value instanceof List<?> items) {
        all.append('[');
        for (int at = 0; at < items.size(); at += 1) {
          if (at > 0) all.append(',');
          write(items.get(at), all);
        }
        all.append(']');
      } else {
        all.append('"');
        for (char each : value.toString().toCharArray()) {
          if (each == '"' || each == '\\') all.append('\\').append(each);
          else if (each < ' ') all.append(String.format("\\u%04x", (int) each));
          else all.append(each);
        }
        all.append('"');
      }
    }
  }
}
